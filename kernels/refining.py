"""Class maps improved by self-attention: the steps of three published methods.

DiffSegmenter (Wang et al., arXiv 2309.02773) spreads each map once, FA-Seg (arXiv 2506.23323) twice
at every resolution, iSeg (Sun et al., arXiv 2409.03209) often, with a map of less entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Final, Literal, TypeAlias

import numpy as np

from .grid import Array, Grid, array_module
from .resize import resize
from .self_attention import Layer, as_operator
from .threads import each_block

Interpolation: TypeAlias = Literal["nearest", "bilinear"]

CUBIC: Final = -0.75
"""The cubic kernel's parameter, torch's."""

CLUSTERS: Final = 32
CLUSTER_SWEEPS: Final = 20
"""iSeg's smoothing: seeds on a grid of about so many, and k-means' iterations."""

SHIFT: Final = 1e-5
"""Added to what iSeg takes logarithms of."""
TINY: Final = 1e-6
"""What zeros count as in iSeg's smoothing."""


def minmax(maps: Array) -> Array:
    """Maps (K, …), each moved and scaled to [0, 1]; a flat one becomes zeros."""
    xp = array_module(maps)
    axes = tuple(range(1, maps.ndim))
    low = maps.min(axis=axes, keepdims=True)
    spread = maps.max(axis=axes, keepdims=True) - low
    return (maps - low) / xp.where(spread > 0, spread, 1)  # type: ignore[no-any-return]


def sum_to_one(maps: Array) -> Array:
    """Maps (K, …), each divided by its sum; zeros stay zeros."""
    xp = array_module(maps)
    total = maps.sum(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return xp.where(total != 0, maps / xp.where(total != 0, total, 1), 0)  # type: ignore[no-any-return]


def head_mean(layers: Sequence[Array]) -> Array:
    """The mean over all heads of layers (heads, tokens, h, w) of one grid: (tokens, h, w)."""
    total: Array = reduce(add, (layer.sum(axis=0) for layer in layers))
    return total / sum(len(layer) for layer in layers)


def at_side(maps: Array, side: int, interpolation: Interpolation = "bilinear") -> Array:
    """Maps (K, r, r) at (K, side, side)."""
    if interpolation == "bilinear":
        return resize(Grid(maps), (side, side))
    places = np.arange(side) * maps.shape[1] // side
    return maps[:, places][:, :, places]


def spread_below(layers: Sequence[Layer], maps: Array, times: int) -> Array:
    """`times` products of maps (K, L, L) with the S (r², r²) of coarser layers, whose keys are
    resized to L bicubically and whose queries are repeated.

    The map is what is resized in the published code; here it is the operand, by the transpose.
    """
    xp = array_module(maps)
    side, finest = math.isqrt(layers[0][1].shape[1]), maps.shape[1]
    weights = xp.asarray(_cubic(finest, side))
    apply = as_operator(layers, times, maps)
    for _ in range(times):
        pooled = weights.T @ maps @ weights if side != finest else maps
        spread = apply(pooled.reshape(len(maps), -1))
        maps = at_side(spread.reshape(len(maps), side, side), finest, "nearest")
    return maps


def less_entropy(operator: Array, entropy: float) -> Array:
    """iSeg's T, in place of S (N, N): divided by each key's largest value, sharper by
    entropy · log₁₀(e T) where it is not 0, cut at 0, rows that sum to 1."""
    xp = array_module(operator)
    largest = operator.max(axis=0, keepdims=True)
    inverse = xp.where(largest > 0, 1 / xp.where(largest > 0, largest, 1), 0).astype("float32")

    def sharpen(rows: slice) -> None:
        block = operator[rows]
        block *= inverse
        if entropy:
            with np.errstate(divide="ignore"):  # of 0 comes −∞, which the cut takes to 0 again
                logarithm = xp.log10(block)
            logarithm += math.log10(math.e)
            logarithm *= entropy
            block += logarithm
            xp.maximum(block, 0, out=block)
        total = block.sum(axis=1, keepdims=True)
        block /= xp.where(total > 0, total, 1)

    each_block(operator, len(operator), len(operator), sharpen)
    return operator


def iterate(operator: Array, maps: Array, iterations: int) -> Array:
    """iSeg's refinement of maps (K, N): m ← T m, its minimum taken off, divided by its sum."""
    xp, maps = array_module(maps), _from_minimum(maps)
    for _ in range(iterations):
        spread = xp.empty_like(maps)

        def multiply(rows: slice, maps: Array = maps, spread: Array = spread) -> None:
            spread[:, rows] = maps @ operator[rows].T

        each_block(maps, len(operator), len(operator), multiply)
        maps = _from_minimum(spread)
    return maps


def _from_minimum(maps: Array) -> Array:
    return sum_to_one(maps - maps.min(axis=1, keepdims=True))


def smooth_by_clusters(maps: Array) -> Array:
    """Token maps (T, side, side) with every pixel's tokens replaced by their mean over its cluster:
    iSeg's, k-means by symmetric Kullback–Leibler divergence from a grid of seeds."""
    xp = array_module(maps)
    side = maps.shape[1]
    points = maps.reshape(len(maps), -1).T
    points = xp.where(points == 0, TINY, points)
    step = max(1, int(side / math.sqrt(CLUSTERS)))
    places = np.arange(0, side, step)
    centres = points[xp.asarray((places[:, None] * side + places).ravel())]
    logarithms = xp.log(points + SHIFT)
    for _ in range(CLUSTER_SWEEPS):
        nearest = _divergences(centres, points, logarithms).argmin(axis=0)
        members = (nearest == xp.arange(len(centres))[:, None]).astype("float32")
        count = members.sum(axis=1)
        centres = (members @ points)[count > 0] / count[count > 0, None]
        of_cluster = (xp.cumsum(count > 0) - 1)[nearest]
    return centres[of_cluster].T.reshape(maps.shape)  # type: ignore[no-any-return]


def _divergences(centres: Array, points: Array, logarithms: Array) -> Array:
    """½ Σ (a − x)(log a − log x) of all pairs of (k, T) and (n, T): (k, n)."""
    xp = array_module(points)
    of_centres = xp.log(centres + SHIFT)
    own = ((centres + SHIFT) * of_centres).sum(axis=1)[:, None]
    others = ((points + SHIFT) * logarithms).sum(axis=1)[None, :]
    crossed = (centres + SHIFT) @ logarithms.T + of_centres @ (points + SHIFT).T
    return (own + others - crossed) / 2  # type: ignore[no-any-return]


def _cubic(outputs: int, inputs: int) -> Array:
    """(outputs, inputs) float32: torch's bicubic interpolation, align_corners False."""
    places = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((outputs, inputs))
    for tap in range(-1, 3):
        far = np.abs(places - (first + tap))
        near = ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1
        away = CUBIC * (((far - 5) * far + 8) * far - 4)
        weight = np.where(far <= 1, near, np.where(far < 2, away, 0))
        np.add.at(matrix, (np.arange(outputs), (first + tap).clip(0, inputs - 1)), weight)
    return matrix.astype("float32")
