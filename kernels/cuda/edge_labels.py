"""Scores that follow the picture's edges to labels, in one launch (edge_labels.cu)."""

from __future__ import annotations

import numpy as np

from ..grid import Array, array_module
from .levels import TILE
from .module import blocks, check, launch


def edge_labels(fits: Array, image: Array, absent: Array | None) -> tuple[Array, Array]:
    """Labels (H, W) uint8 or uint16 and confidences (H, W) float32.

    `fits` are ā and b̄ (4, classes, gh, gw) float32, `image` is (H, W, 3) uint8, and classes of the
    mask `absent` (classes,) bool win nowhere; at least one must be left.
    """
    xp = array_module(fits)
    classes, h, w = fits.shape[1:]
    size = (image.shape[0], image.shape[1])
    fits = xp.ascontiguousarray(fits)
    check("fits", fits, "float32", (4, classes, h, w))
    check("image", image, "uint8", (*size, 3))
    if absent is not None:
        check("absent", absent, "bool", (classes,))
    found = xp.empty(size, dtype="uint8" if classes <= 256 else "uint16")
    confidence = xp.empty(size, dtype="float32")
    launch(
        "edge_labels",
        f"edge_labels_{found.dtype.name}",
        (blocks(size[1], TILE[0]), blocks(size[0], TILE[1])),
        TILE,
        (
            fits,
            *np.array([classes, h, w, *size], np.int32),
            image,
            np.uint64(0) if absent is None else absent,
            found,
            confidence,
        ),
    )
    return found, confidence
