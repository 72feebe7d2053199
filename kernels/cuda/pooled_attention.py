"""Class maps from attention logits, one pass over each layer (pooled_attention.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..grid import Array, Size, array_module
from .module import blocks, check, launch

THREADS: Final = 256
"""As in pooled_attention.cu."""

FLOAT: Final = ("float32", "pool_float")
HALF: Final = ("float16", "pool_half")
"""Dtype of the logits, and the kernel that reads it."""


def pooled_attention(
    logits: Sequence[Array], token_class: NDArray[np.integer], classes: int, grid: Size
) -> Array:
    """a_c of Eq. 4, (classes, gh, gw) float32 in [0, 1], on the grid given.

    `logits` holds (heads, tokens, h, w) float16 or float32 a layer; `token_class` (tokens,), of
    NumPy, names each token's class, none of which is without one.
    """
    xp = array_module(logits[0])
    class_tokens = xp.asarray(np.argsort(token_class, kind="stable").astype(np.int32))
    counts = np.bincount(token_class, minlength=classes)
    class_start = xp.asarray(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    largest = xp.full((classes, *grid), np.finfo(np.float32).min, dtype="float32")
    maps = xp.zeros((classes, *grid), dtype="float32")
    pixels = grid[0] * grid[1]
    for layer in logits:
        values = xp.ascontiguousarray(layer)
        dtype, function = HALF if layer.dtype == "float16" else FLOAT
        check("logits", values, dtype, (len(layer), len(token_class), *layer.shape[2:]))
        launch(
            "pooled_attention",
            function,
            (blocks(pixels, THREADS), classes),
            (THREADS,),
            (
                values,
                *np.array(values.shape, np.int32),
                class_tokens,
                class_start,
                *np.array(grid, np.int32),
                largest,
                maps,
            ),
        )
    launch(
        "pooled_attention",
        "relative_maps",
        (classes,),
        (THREADS,),
        (largest, maps, np.int32(pixels)),
    )
    return maps  # type: ignore[no-any-return]
