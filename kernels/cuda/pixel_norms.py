"""‖f‖ at every output pixel from neighbouring inner products (pixel_norms.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..grid import Array, Grid, Size, array_module
from .levels import TILE, level_table
from .module import blocks, check, launch

PIXELS: Final = 8
LANES: Final = 32
"""Threads of a block that forms inner products, as in pixel_norms.cu."""

PRODUCT_MAPS: Final = 4
"""Inner products a cell: own, right, down, diagonals."""


def pixel_norms(features: Sequence[Grid], size: Size, floor: float) -> Array:
    """‖f‖ (H, W) float32, at least `floor`, of features (d_l, h_l, w_l) float32 or narrower."""
    xp = array_module(features[0].values)
    table, total = level_table(features, size, PRODUCT_MAPS)
    products = xp.empty(total, dtype="float64")
    start = 0
    for level in features:
        values = xp.ascontiguousarray(level.values, dtype="float32")
        check("features", values, "float32", level.values.shape)
        cells = level.size[0] * level.size[1]
        launch(
            "pixel_norms",
            "neighbour_products",
            (blocks(cells, PIXELS),),
            (PIXELS, LANES),
            (values, *np.array(values.shape, np.int32), products[start:]),
        )
        start += PRODUCT_MAPS * cells
    norms = xp.empty(size, dtype="float32")
    launch(
        "pixel_norms",
        "pixel_norms",
        (blocks(size[1], TILE[0]), blocks(size[0], TILE[1])),
        TILE,
        (products, table, *np.array([len(features), *size], np.int32), np.float64(floor), norms),
    )
    return norms  # type: ignore[no-any-return]
