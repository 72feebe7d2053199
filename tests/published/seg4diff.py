"""Seg4Diff, naively (arXiv 2509.18096, NeurIPS 2025; repository cvlab-kaist/Seg4Diff).

One layer's joint attention as a whole matrix: of the image's rows the columns of the text, the mean
over heads, then over a class's tokens; bilinear to the picture, and the largest wins. Without
classes the prompt is empty, and token maps that are near each other make a segment together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear
from .scaling import softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SHIFT = 1e-6  # added to a map's range


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


def segments(P: Floats, grid: tuple[int, int], tau: float, size: tuple[int, int]) -> Labels:
    """The segment of every pixel (H, W), from `P` (pixels, texts) of the empty prompt.

    Each text token's map, min-max then softmax, is a distribution over pixels. In index order one
    not yet matched makes a group, the mean of those with (KL(i‖j) + KL(j‖i))/2 < `tau`: itself,
    and also any already matched. Bilinear to the picture, and the largest group wins.
    """
    pixels, texts = P.shape
    maps = np.zeros((texts, pixels))
    for i in range(texts):
        low, high = P[:, i].min(), P[:, i].max()
        maps[i] = softmax((P[:, i] - low) / (high - low + SHIFT))
    matched = [False] * texts
    groups = []
    for i in range(texts):
        if matched[i]:
            continue
        members = []
        for j in range(texts):
            forth = float((maps[i] * np.log(maps[i] / maps[j])).sum())
            back = float((maps[j] * np.log(maps[j] / maps[i])).sum())
            if j == i or (forth + back) / 2 < tau:
                members.append(maps[j])
                matched[j] = True
        groups.append(np.mean(members, axis=0).reshape(grid))
    return bilinear(np.stack(groups), size).argmax(axis=0)
