"""Scores that follow the picture's edges to labels, some classes a launch (edge_labels.cu)."""

from __future__ import annotations

import numpy as np

from ..grid import Array, array_module
from .levels import TILE
from .module import blocks, check, launch


def edge_labels(
    fits: Array, image: Array, first: int, absent: Array | None, labels: Array, best: Array
) -> None:
    """Let the classes from `first` on win pixels, in place.

    `fits` are their ā and b̄ (4, classes, gh, gw) float32, `image` is (H, W, 3) uint8. `labels`
    (H, W) uint8 or uint16 and `best` (H, W) float32 hold the winners so far; classes of the mask
    `absent`, (all classes,) bool, win nowhere.
    """
    xp = array_module(fits)
    classes, h, w = fits.shape[1:]
    size = (image.shape[0], image.shape[1])
    fits = xp.ascontiguousarray(fits)
    check("fits", fits, "float32", (4, classes, h, w))
    check("image", image, "uint8", (*size, 3))
    check("labels", labels, labels.dtype.name, size)
    check("best", best, "float32", size)
    if absent is not None:
        check("absent", absent, "bool", absent.shape)
    launch(
        "edge_labels",
        f"edge_labels_{labels.dtype.name}",
        (blocks(size[1], TILE[0]), blocks(size[0], TILE[1])),
        TILE,
        (
            fits,
            *np.array([first, classes, h, w, *size], np.int32),
            image,
            np.uint64(0) if absent is None else absent,
            labels,
            best,
        ),
    )
