"""PAMR, pixel-adaptive mask refinement, naively (Araslanov & Roth, CVPR 2020).

As DiffCut uses it (repository PaulCouairon/DiffCut, `tools/pamr.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear
from .scaling import softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

EPSILON = 1e-8
SPREAD = 0.1
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def pamr(
    image: Floats, masks: Floats, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8)
) -> Floats:
    """`masks` (S, H, W) spread along the colours of `image` (H, W, 3) in [0, 1]: (S, H, W).

    Masks of another size are first resized bilinearly with corners aligned. Outside the picture
    both its colours and the masks are those of the nearest edge pixel.
    """
    height, width, _ = image.shape
    if masks.shape[1:] != (height, width):
        masks = bilinear(masks, (height, width), align_corners=True)
    steps = [(d * dy, d * dx) for d in dilations for dy, dx in NEIGHBOURS]
    weights = softmax(colour_affinity(image, steps, dilations))
    for _ in range(iterations):
        spread = np.zeros_like(masks)
        for q, (dy, dx) in enumerate(steps):
            for s in range(len(masks)):
                spread[s] += weights[:, :, q] * shifted(masks[s], dy, dx)
        masks = spread
    return masks


def colour_affinity(
    image: Floats, steps: Sequence[tuple[int, int]], dilations: Sequence[int]
) -> Floats:
    """Scores (H, W, len(steps)): minus the colour difference over the spread, mean over RGB.

    The spread is the unbiased standard deviation, per channel, of the samples of all 3×3 windows
    together: 36 for four dilations, the centre counted once per window.
    """
    windows = [(d * dy, d * dx) for d in dilations for dy, dx in [*NEIGHBOURS, (0, 0)]]
    scores = np.zeros((*image.shape[:2], len(steps)))
    channels = image.shape[2]
    for c in range(channels):
        channel = image[:, :, c]
        samples = np.stack([shifted(channel, dy, dx) for dy, dx in windows])
        sigma = samples.std(axis=0, ddof=1)
        for q, (dy, dx) in enumerate(steps):
            difference = np.abs(channel - shifted(channel, dy, dx))
            scores[:, :, q] += -difference / (EPSILON + SPREAD * sigma) / channels
    return scores


def shifted(plane: Floats, dy: int, dx: int) -> Floats:
    """At each pixel p of `plane` (H, W) the value at p + (dy, dx), clamped to the edge."""
    height, width = plane.shape
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return plane[np.ix_(rows, columns)]


def median3(labels: Labels) -> Labels:
    """Median of each 3×3 window of `labels` (H, W); beyond the edge the edge repeats.

    This is `scipy.ndimage.median_filter(labels, size=3)`: its mode "reflect" repeats the edge pixel
    first, and a 3×3 window reaches no farther.
    """
    height, width = labels.shape
    filtered = np.zeros_like(labels)
    for y in range(height):
        for x in range(width):
            window = [
                labels[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            filtered[y, x] = sorted(window)[4]
    return filtered
