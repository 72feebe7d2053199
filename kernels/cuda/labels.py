"""Scores to labels and confidences at full resolution, in one launch (labels.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..grid import Array, Grid, Size, array_module, label_type
from .levels import TILE, level_table
from .module import blocks, check, launch

MOST_LEVELS: Final = 4
"""Levels that one launch reads: MAX_LEVELS of labels.cu."""


def labels(scores: Sequence[Grid], size: Size, norms: Array | None) -> tuple[Array, Array | None]:
    """Labels (H, W) uint8 or uint16 and, if `norms` (H, W) are given, confidences (H, W) float32.

    `scores` are up to four grids of (classes, h_l, w_l) float32.
    """
    if len(scores) > MOST_LEVELS:
        raise ValueError(f"scores have {len(scores)} levels, expected at most {MOST_LEVELS}")
    xp = array_module(scores[0].values)
    classes = len(scores[0].values)
    table, total = level_table(scores, size, classes)
    packed = xp.concatenate([level.values.ravel() for level in scores])
    found = xp.empty(size, dtype=label_type(classes))
    confidence = None if norms is None else xp.empty(size, dtype="float32")
    check("scores", packed, "float32", (total,))
    if norms is not None:
        check("norms", norms, "float32", size)
    nothing = np.uint64(0)  # a null pointer
    launch(
        "labels",
        f"labels_{found.dtype.name}",
        (blocks(size[1], TILE[0]), blocks(size[0], TILE[1])),
        TILE,
        (
            packed,
            table,
            *np.array([len(scores), classes, *size], np.int32),
            nothing if norms is None else norms,
            found,
            nothing if confidence is None else confidence,
        ),
    )
    return found, confidence
