"""Scores spread along the picture's colours: PAMR, pixel-adaptive mask refinement (Araslanov and
Roth, CVPR 2020; constants and padding as in their published code).

Every pixel p has neighbours q in 3×3 windows, one for each dilation. Its affinity to them is

    α(p, q) = softmax over q of the mean over channels of −|I(p) − I(q)| / (ε + 0.1 σ(p)),

where σ is the unbiased standard deviation, of one channel, of the samples of all these windows, p
counted once in each. Scores are then replaced by m(p) ← Σ α(p, q) m(q), some times over. Beyond
the picture lies what is at its edge. Affinities of a pixel sum to 1: masks and cosines fit alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from .grid import Array, Size, array_module, on_gpu

ITERATIONS: Final = 10
DILATIONS: Final = (1, 2, 4, 8)
"""Cells between a pixel and its neighbours."""
SPREAD: Final = 0.1
"""The share of σ that makes a neighbour e times less alike."""
EPSILON: Final = 1e-8
"""ε, for where there is one colour alone."""
CHUNK_CELLS: Final = 1 << 16
"""Cells, over all their classes, that are spread together: 256 KiB of float32 stay in a core's
cache."""
GPU_CELLS: Final = 1 << 22
"""The same on a GPU, where each launch costs more than reaching memory."""

Shift: TypeAlias = tuple[slice, slice]
"""(rows, columns) of a padded map that hold one neighbour of every pixel."""


def pamr(
    scores: Array,
    image: Array,
    iterations: int = ITERATIONS,
    dilations: Sequence[int] = DILATIONS,
) -> Array:
    """Every class's refined scores, (classes, h, w) float32; within the range that they came in.

    Args:
        scores: (classes, h, w) floating point, in any range.
        image: the picture on the same grid, (channels, h, w) float32 in [0, 1].
        iterations: how often scores are spread.
        dilations: the windows, as cells between a pixel and its neighbours.
    """
    xp = array_module(scores)
    h, w = scores.shape[1:]
    weights, shifts = affinities(image, dilations), _shifts((h, w), dilations)
    refined = xp.array(scores, dtype="float32")
    step = max(1, (GPU_CELLS if on_gpu(scores) else CHUNK_CELLS) // (h * w))
    for start in range(0, len(scores), step):
        chunk = refined[start : start + step]
        share = xp.empty_like(chunk)
        for _ in range(iterations):
            padded = _padded(chunk, max(dilations))
            chunk[...] = 0
            for weight, (rows, columns) in zip(weights, shifts, strict=True):
                xp.multiply(padded[:, rows, columns], weight, out=share)
                chunk += share
    return refined  # type: ignore[no-any-return]


def affinities(image: Array, dilations: Sequence[int] = DILATIONS) -> Array:
    """α of every pixel and its neighbours, window by window and row by row without the middle:
    (8 · dilations, h, w) float32, which sum to 1 over the first axis.

    `image` is (channels, h, w) float32 in [0, 1].
    """
    xp = array_module(image)
    size: Size = image.shape[1], image.shape[2]
    shifts, samples = _shifts(size, dilations), 9 * len(dilations)
    weights = xp.zeros((len(shifts), *size), dtype="float32")
    for channel, padded in zip(image, _padded(image, max(dilations)), strict=True):
        # Of differences to p itself, which do not cancel; its own samples add nothing to the sums.
        total, squares = xp.zeros_like(channel), xp.zeros_like(channel)
        for shift in shifts:
            difference = padded[shift] - channel
            total += difference
            squares += difference * difference
        sigma = xp.sqrt((squares - total * total / samples) / (samples - 1))
        scale = -1 / (len(image) * (EPSILON + SPREAD * sigma))
        for weight, shift in zip(weights, shifts, strict=True):
            weight += abs(padded[shift] - channel) * scale
    weights -= weights.max(axis=0)
    xp.exp(weights, out=weights)
    weights /= weights.sum(axis=0)
    return weights  # type: ignore[no-any-return]


def _shifts(size: Size, dilations: Sequence[int]) -> list[Shift]:
    """Where each neighbour lies once maps of `size` are padded by the largest dilation."""
    (h, w), margin = size, max(dilations)
    return [
        (slice(margin + y, margin + y + h), slice(margin + x, margin + x + w))
        for dilation in dilations
        for y in (-dilation, 0, dilation)
        for x in (-dilation, 0, dilation)
        if (y, x) != (0, 0)
    ]


def _padded(maps: Array, margin: int) -> Array:
    """Maps (…, h, w) with a margin in which their edges are repeated."""
    sides = (margin, margin)
    return array_module(maps).pad(maps, ((0, 0), sides, sides), mode="edge")  # type: ignore[no-any-return]
