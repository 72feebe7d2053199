"""DiffSeg's arithmetic: self-attention maps of all layers put together, then merged until segments
are left (Tian et al., CVPR 2024, arXiv 2308.12469); and the same merging of the maps of tokens
(Seg4Diff, arXiv 2509.18096)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .grid import Array, Grid, array_module
from .resize import resize

ANCHORS: Final = 16
"""Anchors a side (§4, "M = 256")."""

MERGES: Final = 2
"""Passes that merge proposals, after the one that forms them (§3.3, N = 3)."""

RANGE: Final = 1e-6
"""Added to the range of a token's map before it is divided by it, as published."""

TINY: Final = 1e-12
"""Added before logarithms: bilinear maps and float32 probabilities hold zeros."""


def merged_maps(layers: Sequence[Array], threshold: float) -> Grid:
    """One map a segment, a grid of (segments, side, side) float32; their argmax are labels.

    The published choices: layers weighted by their resolution, 16×16 anchors, half the symmetric
    divergence, three passes with one threshold.

    Args:
        layers: (n, n) float32 each, probabilities of n = side² queries over as many keys.
        threshold: maps nearer than this are one segment's.
    """
    maps = aggregate(layers)
    side = int(np.sqrt(maps.shape[1]))
    proposals = propose(maps, anchors(side), threshold)
    for _ in range(MERGES):
        proposals = merge(proposals, threshold)
    return Grid(proposals.reshape(-1, side, side).astype("float32"))


def merged_tokens(shares: Array, threshold: float) -> Grid:
    """One map a segment, a grid of (segments, h, w) float32; their argmax are labels.

    Args:
        shares: (tokens, h, w) float32, what each pixel's attention gives to a token.
        threshold: maps nearer than this are one segment's.
    """
    xp = array_module(shares)
    maps = shares.reshape(len(shares), -1)
    low, high = maps.min(axis=1, keepdims=True), maps.max(axis=1, keepdims=True)
    weights = xp.exp((maps - low) / (high - low + RANGE))
    merged = merge(weights / weights.sum(axis=1, keepdims=True), threshold)
    return Grid(merged.reshape(-1, *shares.shape[1:]).astype("float32"))


def aggregate(layers: Sequence[Array]) -> Array:
    """A_f (§3.2): (n, n) float32, n pixels of the finest layer; rows sum to 1.

    A layer of w×w is resized bilinearly over its keys, renormalised, repeated over its queries,
    and weighted by w.
    """
    xp = array_module(layers[0])
    sides = [int(np.sqrt(len(layer))) for layer in layers]
    finest = max(sides)
    total = xp.zeros((finest * finest, finest * finest), dtype="float32")
    for layer, side in zip(layers, sides, strict=True):
        keys = layer
        if side != finest:
            keys = resize(Grid(layer.reshape(-1, side, side)), (finest, finest))
            keys = keys.reshape(len(layer), -1)
        keys = keys / keys.sum(axis=1, keepdims=True)
        times = finest // side
        queries = keys.reshape(side, side, -1).repeat(times, axis=0).repeat(times, axis=1)
        total += queries.reshape(total.shape) * (side / sum(sides))
    return total  # type: ignore[no-any-return]


def anchors(side: int) -> list[int]:
    """The queries on an evenly spaced grid of at most `ANCHORS`² pixels, row by row."""
    count = min(ANCHORS, side)
    step = (side - 1) // (count - 1) if count > 1 else 1
    first = (side - 1 - step * (count - 1)) // 2
    places = [first + step * i for i in range(count)]
    return [y * side + x for y in places for x in places]


def divergence(left: Array, right: Array) -> Array:
    """½ (KL(p‖q) + KL(q‖p)) of every row p of `left` (m, n) and q of `right` (k, n): (m, k)."""
    xp = array_module(left)
    log_left, log_right = xp.log(left + TINY), xp.log(right + TINY)
    own = (left * log_left).sum(axis=1)[:, None] + (right * log_right).sum(axis=1)[None, :]
    found: Array = (own - left @ log_right.T - log_left @ right.T) / 2
    return found


def propose(maps: Array, anchor: Sequence[int], threshold: float) -> Array:
    """For each anchor the mean of all maps nearer than the threshold: (anchors, n)."""
    xp = array_module(maps)
    picked = maps[xp.asarray(np.array(anchor))]
    near = (divergence(picked, maps) < threshold).astype("float32")
    count = near.sum(axis=1, keepdims=True)
    proposals: Array = xp.where(count > 0, near @ maps / xp.maximum(count, 1), picked)
    return proposals


def merge(proposals: Array, threshold: float) -> Array:
    """Greedily: each proposal not yet taken becomes the mean of all nearer than the threshold."""
    xp = array_module(proposals)
    near = np.array((divergence(proposals, proposals) < threshold).tolist())
    taken = np.zeros(len(proposals), dtype=bool)
    merged = []
    for index in range(len(proposals)):
        if taken[index]:
            continue
        group = near[index].copy()
        group[index] = True
        taken |= group
        merged.append(proposals[xp.asarray(np.flatnonzero(group))].mean(axis=0))
    return xp.stack(merged)  # type: ignore[no-any-return]
