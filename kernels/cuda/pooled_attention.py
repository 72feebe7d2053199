"""Class maps from attention logits, one pass over each layer (pooled_attention.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..grid import Array, Grid, Size, array_module
from .levels import level_table
from .module import blocks, check, launch

THREADS: Final = 256
"""As in pooled_attention.cu."""

FLOAT: Final = ("float32", "pool_float")
HALF: Final = ("float16", "pool_half")
"""Dtype of the logits, and the kernel that reads it."""


def pooled_attention(
    logits: Sequence[Array], token_class: NDArray[np.integer], classes: int, grid: Size
) -> Array:
    """a_c by exp, (classes, gh, gw) float32 in [0, 1], on the grid given.

    `logits` holds (heads, tokens, h, w) float16 or float32 a layer; `token_class` (tokens,), of
    NumPy, names each token's class, none of which is without one.
    """
    xp = array_module(logits[0])
    class_tokens = xp.asarray(np.argsort(token_class, kind="stable").astype(np.int32))
    counts = np.bincount(token_class, minlength=classes)
    class_start = xp.asarray(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    table, values_in_all = level_table([Grid(layer[0]) for layer in logits], grid, classes)
    largest, sums = (xp.empty(values_in_all, dtype="float32") for _ in range(2))
    start = 0
    for layer in logits:
        values = xp.ascontiguousarray(layer)
        dtype, function = HALF if layer.dtype == "float16" else FLOAT
        check("logits", values, dtype, (len(layer), len(token_class), *layer.shape[2:]))
        cells = layer.shape[2] * layer.shape[3]
        own = slice(start, start + classes * cells)
        launch(
            "pooled_attention",
            function,
            (blocks(cells, THREADS), classes),
            (THREADS,),
            (
                values,
                *np.array((*layer.shape[:2], cells), np.int32),
                class_tokens,
                class_start,
                largest[own],
                sums[own],
            ),
        )
        start = own.stop
    maps = xp.empty((classes, *grid), dtype="float32")
    launch(
        "pooled_attention",
        "relative_maps",
        (classes,),
        (THREADS,),
        (largest, sums, table, *np.array((len(logits), *grid), np.int32), maps),
    )
    return maps  # type: ignore[no-any-return]
