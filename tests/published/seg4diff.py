"""Seg4Diff, naively (arXiv 2509.18096, NeurIPS 2025; repository cvlab-kaist/Seg4Diff).

One layer's joint attention as a whole matrix: of the image's rows the columns of the text, the mean
over heads, then over a class's tokens; bilinear to the picture, and the largest wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear
from .scaling import softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def image_to_text(Q: Floats, K: Floats, pixels: int) -> Floats:
    """P (pixels, texts) of `Q` and `K` (heads, pixels + texts, d), image first."""
    heads, _, d = Q.shape
    P = np.stack([softmax(Q[n] @ K[n].T / np.sqrt(d)) for n in range(heads)])
    return P.mean(axis=0)[:pixels, pixels:]


def labels(
    P: Floats, grid: tuple[int, int], tokens: Sequence[Sequence[int]], size: tuple[int, int]
) -> Labels:
    """The class of every pixel (H, W): `P` (pixels, texts), each class's token columns."""
    maps = np.stack([P[:, list(own)].mean(axis=1).reshape(grid) for own in tokens])
    return bilinear(maps, size).argmax(axis=0)
