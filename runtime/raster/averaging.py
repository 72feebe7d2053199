"""The whole raster's class maps and prototypes, from sums over its blocks (Eq. 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ..heads import Head
from ..look.clock import StageClock
from ..look.network import Network
from .lattice import Lattice, Window
from .seeing import SampledTaps
from .store import Store

SAMPLED: Final = 48
"""Cells a side that are sampled of a raster where segments have no names: what clustering compares
pair by pair."""


@dataclass(frozen=True)
class Maps:
    """What brings a raster's class maps to [0, 1].

    Attributes:
        pooling: how they were pooled.
        low, high: (classes,) float32, the least and the most of each in the whole raster.
        won: (classes,) share of the cells that each class wins.
    """

    pooling: str
    low: Array
    high: Array
    won: Array

    def __call__(self, values: Array) -> Array:
        """a_c, (classes, rows, columns) float32, of stored ones."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        if self.pooling == "exp":
            return np.exp(values - high)  # type: ignore[no-any-return]
        if self.pooling == "logit":
            spread = high - low
            stretched = (values - low) / np.where(spread > 0, spread, 1)
            return np.where(spread > 0, stretched, 1).clip(0, 1).astype(np.float32)
        return (values / np.where(high > 0, high, 1)).astype(np.float32)


def whole_maps(store: Store, pooling: str) -> Maps | None:
    """Ranges and wins over all cells that have data; None where none has."""
    lows, highs, wins = [], [], []
    for index in range(len(store.blocks)):
        held = store.get(index, "valid")[0] > 0
        if held.any():
            values = store.get(index, "maps")[:, held]
            lows.append(values.min(axis=1))
            highs.append(values.max(axis=1))
            wins.append(np.bincount(values.argmax(axis=0), minlength=len(values)))
    if not wins:
        return None
    won = np.sum(wins, axis=0)
    shares = (won / won.sum()).astype(np.float32)
    return Maps(pooling, np.min(lows, axis=0), np.max(highs, axis=0), shares)


def whole_prototypes(
    network: Network,
    store: Store,
    lattice: Lattice,
    margin: int,
    levels: dict[str, tuple[int, int]],
    maps: Maps,
    cell: int,
    options: Any,
) -> list[Array]:
    """f̄_c of the whole raster at each level, (classes, d_l) float32 on the device.

    Both sums of Eq. 5 are linear in the class maps, so they are those of every block's own map,
    that is zero elsewhere, over a window in which features are what they are in the whole.
    """
    sums: list[NDArray[Any]] | None = None
    total: NDArray[Any] = np.zeros(())
    for index, block in enumerate(store.blocks):
        valid = store.get(index, "valid")
        if not valid.any():
            continue
        window = lattice.around(block, margin)
        own = maps(store.get(index, "maps")) ** np.float32(options.map_power) * valid
        weights = np.zeros((len(own), *window.cells(cell).size), np.float32)
        weights[:, *block.cells(cell).slices(window.cells(cell))] = own
        features = stored_features(network, store, levels, window)
        grid = Grid(network.device.upload(weights))
        added, weight = kernels.prototype_sums(features, grid, window.size, options.mode)
        *parts, weight = network.device.download(*added, weight)()
        parts = [part.astype(np.float64) for part in parts]
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        total = total + weight.astype(np.float64)
    assert sums is not None
    total = np.where(total > 0, total, 1)
    return [network.device.upload((part / total).astype(np.float32)) for part in sums]


def stored_features(
    network: Network, store: Store, levels: dict[str, tuple[int, int]], window: Window
) -> list[Grid]:
    """F_l of a part of the lattice, on the device."""
    return [
        Grid(network.device.upload(store.window(name, window, stride)))
        for name, (stride, _) in levels.items()
    ]


def clustered_prototypes(
    network: Network,
    store: Store,
    lattice: Lattice,
    levels: dict[str, tuple[int, int]],
    head: Head,
    options: Any,
    count: Any,
    clock: StageClock,
) -> list[Array]:
    """Prototypes of unnamed segments: a head clusters cells from all over the raster."""
    sampled = _sampled(network, store, lattice, levels)
    every = range(len(store.blocks))
    spans = np.stack([store.get(i, "colours") for i in every if store.get(i, "valid").any()])
    colours = np.stack([spans[:, 0].min(axis=0), spans[:, 1].max(axis=0)])[:, None]
    reading = head.read(SampledTaps(network, colours, clock, sampled), options, count)
    size = reading.weights.size
    return kernels.prototypes(reading.features, reading.weights, size, options.mode)


def _sampled(
    network: Network, store: Store, lattice: Lattice, levels: dict[str, tuple[int, int]]
) -> list[Grid]:
    """Features of cells that are spread evenly; where one has no data, of another that has."""
    cell = min(stride for stride, _ in levels.values())
    whole = lattice.raster
    valid = [store.get(index, "valid")[0] > 0 for index in range(len(store.blocks))]
    held = np.concatenate(
        [
            np.argwhere(mask) + np.array([block.top // cell, block.left // cell])
            for mask, block in zip(valid, store.blocks, strict=True)
        ]
    )
    rows, columns = (
        _even(first, last, cell)
        for first, last in ((whole.top, whole.bottom), (whole.left, whole.right))
    )
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    flat = places.reshape(-1, 2)
    known = {tuple(place) for place in held.tolist()}
    empty = [i for i, place in enumerate(flat.tolist()) if tuple(place) not in known]
    flat[empty] = np.random.default_rng(0).choice(held, len(empty))
    found = {
        name: np.empty((channels, len(flat)), np.float32) for name, (_, channels) in levels.items()
    }
    for index, block in enumerate(store.blocks):
        ends = block.cells(cell)
        inside = ((flat >= (ends.top, ends.left)) & (flat < (ends.bottom, ends.right))).all(axis=1)
        for name, (stride, _) in levels.items():
            y, x = (flat[inside] * cell // stride - (block.top // stride, block.left // stride)).T
            found[name][:, inside] = store.get(index, name)[:, y, x]
    return [
        Grid(network.device.upload(values.reshape(-1, *places.shape[:2])))
        for values in found.values()
    ]


def _even(first: int, last: int, cell: int) -> NDArray[np.int64]:
    """At most `SAMPLED` cells of those between two pixels."""
    first, last = first // cell, -(-last // cell)
    count = min(SAMPLED, last - first)
    return (first + (np.arange(count) + 0.5) * (last - first) / count).astype(np.int64)
