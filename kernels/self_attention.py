"""Self-attention as an operator on class maps: S m, and no map of more than one head at a time.

S is the mean over heads of softmax(QKᵀ/√d), row-stochastic, (N, N) for N pixels. What is given
are Q and K, a thousandth of its size; S is made a few rows at a time, and kept where it is used
often.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import numpy as np

from .cpu.mean_map import has_spread, mean_rows
from .cpu.mean_map import spread as spread_head
from .grid import Array, array_module, on_gpu
from .threads import each_block, in_threads

Layer: TypeAlias = tuple[Array, Array]
"""Q/√d and K of a self-attention layer, (heads, N, d) float32 each."""

MIXES: Final = 2
"""So often S m is faster by heads than S with its products."""


def mean_map(layers: Sequence[Layer]) -> Array:
    """S, the mean over all heads of layers of the same N: (N, N) float32; rows sum to 1. Where only
    some pixels' queries are given, their rows alone."""
    count, pixels = layers[0][0].shape[1], _pixels(layers)
    whole = array_module(layers[0][0]).empty((count, pixels), dtype="float32")
    some = _rows(layers)

    def keep(rows: slice) -> None:
        whole[rows] = some(rows)

    each_block(whole, count, pixels, keep)
    return whole  # type: ignore[no-any-return]


def attend(layers: Sequence[Layer], maps: Array) -> Array:
    """S m of maps (K, N) float32, of which S is never held: (K, N)."""
    pixels = _pixels(layers)
    if _has_heads(layers, maps):
        return _attend_by_heads(layers, maps)
    spread = array_module(maps).empty(maps.shape, dtype="float32")
    some = _rows(layers)

    def multiply(rows: slice) -> None:
        spread[:, rows] = maps @ some(rows).T

    each_block(maps, pixels, pixels, multiply)
    return spread  # type: ignore[no-any-return]


def _has_heads(layers: Sequence[Layer], maps: Array) -> bool:
    """Whether `_attend_by_heads` can be asked."""
    return not on_gpu(maps) and all(has_spread(queries.shape[2]) for queries, _ in layers)


def _attend_by_heads(layers: Sequence[Layer], maps: Array) -> Array:
    """The same, of each head for itself: its keys stay in a core's cache."""
    values = np.ascontiguousarray(maps.T, np.float32)
    heads = [pair for layer in layers for pair in zip(*layer, strict=True)]
    pieces = -(-2 * (os.cpu_count() or 1) // len(heads))  # more where cores outnumber heads
    step = -(-len(values) // pieces)
    starts = range(0, len(values), step)
    tasks = [(q[start : start + step], k) for q, k in heads for start in starts]
    found = in_threads(lambda task: spread_head(*task, values), tasks)
    total = np.zeros((len(values), len(maps)), np.float32)
    for _ in heads:
        total += np.concatenate([next(found) for _ in starts])
    return np.ascontiguousarray(total.T) / np.float32(len(heads))


def as_operator(layers: Sequence[Layer], uses: int, like: Array) -> Callable[[Array], Array]:
    """m ↦ S m of maps (K, N), arrays like `like`, to be used so many times: S is held where that is
    faster."""
    if uses <= (MIXES if _has_heads(layers, like) else 1):
        return partial(attend, layers)
    whole = mean_map(layers)
    return lambda maps: maps @ whole.T


def spread(layers: Sequence[Layer], maps: Array, times: int) -> Array:
    """Maps (K, h, w) after m ← S m, `times` times; h · w = N."""
    flat, apply = maps.reshape(len(maps), -1), as_operator(layers, times, maps)
    for _ in range(times):
        flat = apply(flat)
    return flat.reshape(maps.shape)


def _pixels(layers: Sequence[Layer]) -> int:
    """N, the same of all."""
    pixels = layers[0][1].shape[1]
    for _, keys in layers:
        if keys.shape[1] != pixels:
            raise ValueError(f"layers of {pixels} and {keys.shape[1]} pixels have no mean map")
    return int(pixels)


def _rows(layers: Sequence[Layer]) -> Callable[[slice], Array]:
    """What gives some rows of S, from any thread."""
    compiled = None if on_gpu(layers[0][0]) else mean_rows(layers)
    return partial(_block, layers) if compiled is None else compiled


def _block(layers: Sequence[Layer], rows: slice) -> Array:
    """Some rows of S, by the arrays' own library."""
    xp = array_module(layers[0][0])
    heads = sum(len(queries) for queries, _ in layers)
    total: Array | None = None
    for queries, keys in layers:
        for query, key in zip(queries, keys, strict=True):
            weights = query[rows] @ key.T
            weights -= weights.max(axis=1, keepdims=True)
            xp.exp(weights, out=weights)
            weights *= 1 / (heads * weights.sum(axis=1, keepdims=True))
            total = weights if total is None else xp.add(total, weights, out=total)
    assert total is not None
    return total
