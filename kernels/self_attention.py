"""Self-attention as an operator on class maps: S m, and no map of more than one head at a time.

S is the mean over heads of softmax(QKᵀ/√d), row-stochastic, (N, N) for N pixels. What is given
are Q and K, a thousandth of its size; S is made a few rows at a time, and kept where it is used
often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from .grid import Array, array_module

Layer: TypeAlias = tuple[Array, Array]
"""Q/√d and K of a self-attention layer, (heads, N, d) float32 each."""

BLOCK: Final = 1 << 19
"""Values of one head's map that are held at a time (2 MiB of float32): they stay in a cache."""


def mean_map(layers: Sequence[Layer]) -> Array:
    """S, the mean over all heads of layers of the same N: (N, N) float32; rows sum to 1."""
    xp = array_module(layers[0][0])
    pixels = layers[0][0].shape[1]
    whole = xp.empty((pixels, pixels), dtype="float32")
    for rows, block in _blocks(layers):
        whole[rows] = block
    return whole  # type: ignore[no-any-return]


def attend(layers: Sequence[Layer], maps: Array) -> Array:
    """S m of maps (K, N) float32, of which S is never held: (K, N)."""
    xp = array_module(maps)
    spread = xp.empty(maps.shape, dtype="float32")
    for rows, block in _blocks(layers):
        spread[:, rows] = maps @ block.T
    return spread  # type: ignore[no-any-return]


def _blocks(layers: Sequence[Layer]) -> Iterator[tuple[slice, Array]]:
    """Rows of S: (rows, N) float32, each block valid until the next."""
    xp = array_module(layers[0][0])
    heads = sum(len(queries) for queries, _ in layers)
    pixels = layers[0][0].shape[1]
    for _, keys in layers:
        if keys.shape[1] != pixels:
            raise ValueError(f"layers of {pixels} and {keys.shape[1]} pixels have no mean map")
    step = max(1, BLOCK // pixels)
    for start in range(0, pixels, step):
        rows = slice(start, min(start + step, pixels))
        total = xp.zeros((rows.stop - rows.start, pixels), dtype="float32")
        for queries, keys in layers:
            for query, key in zip(queries, keys, strict=True):
                logits = query[rows] @ key.T
                logits -= logits.max(axis=1, keepdims=True)
                xp.exp(logits, out=logits)
                logits *= 1 / (heads * logits.sum(axis=1, keepdims=True))
                total += logits
        yield rows, total
