"""Self-attention as an operator on class maps: S m, and no map of more than one head at a time.

S is the mean over heads of softmax(QKᵀ/√d), row-stochastic, (N, N) for N pixels. What is given
are Q and K, a thousandth of its size; S is made a few rows at a time, and kept where it is used
often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from .cpu.mean_map import mean_rows
from .grid import Array, array_module, on_gpu
from .threads import each_block

Layer: TypeAlias = tuple[Array, Array]
"""Q/√d and K of a self-attention layer, (heads, N, d) float32 each."""


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
    spread = array_module(maps).empty(maps.shape, dtype="float32")
    some = _rows(layers)

    def multiply(rows: slice) -> None:
        spread[:, rows] = maps @ some(rows).T

    each_block(maps, pixels, pixels, multiply)
    return spread  # type: ignore[no-any-return]


def spread(layers: Sequence[Layer], maps: Array, times: int) -> Array:
    """Maps (K, h, w) after m ← S m, `times` times; h · w = N."""
    flat = maps.reshape(len(maps), -1)
    if times < 2:
        return attend(layers, flat).reshape(maps.shape) if times else maps
    operator = mean_map(layers)
    for _ in range(times):
        flat = flat @ operator.T
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
