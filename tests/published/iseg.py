"""iSeg, naively (Sun et al., arXiv 2409.03209; repository linsun449/iseg.code).

Follows `base/stable_difusion.py`, `wsss/iSeg.py` and `wsss/featurecluster.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import e, floor, isqrt, sqrt

import numpy as np
from numpy.typing import NDArray

from .resizing import Size, bilinear
from .scaling import minmax_each
from .selfattention import head_maps

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

HEADS = (1, 2)  # of up3.1.attn1, counted from 0 (the published script)
PRIOR_WEIGHTS = (0.7, 0.3)  # of 16² and 32²
CLUSTERS = 32
CLUSTER_SWEEPS = 20
TINY = 1e-6
SHIFT = 1e-5


# ---- class prior --------------------------------------------------------------------------------


def cross_prior(
    coarse: Floats,
    fine: Floats,
    side: int,
    coarse_heads: Sequence[int] | None = None,
    fine_heads: Sequence[int] | None = None,
    weights: tuple[float, float] = PRIOR_WEIGHTS,
) -> Floats:
    """Token maps C (T, side²) from cross-attention at two grids, each (heads, r·r, T).

    The heads of a grid's layers stand in a row in the order of execution; the mean is over those
    named, or all. Each token's map is made to sum to 1 before its bilinear resize, not after.
    """
    tokens = coarse.shape[2]
    c = np.zeros((tokens, side * side))
    for maps, heads, weight in zip(
        (coarse, fine), (coarse_heads, fine_heads), weights, strict=True
    ):
        chosen = maps if heads is None else maps[list(heads)]
        r = isqrt(maps.shape[1])
        mean = chosen.mean(axis=0).T
        for t in range(tokens):
            mean[t] = to_sum_one(mean[t])
        resized = bilinear(mean.reshape(tokens, r, r), (side, side))
        c += weight * resized.reshape(tokens, side * side)
    return c


def divergence(a: Floats, x: Floats) -> Floats:
    """Symmetric Kullback–Leibler divergence ½ Σ (a − x)(log a − log x) of (T,) and (n, T): (n,)."""
    a, x = a + SHIFT, x + SHIFT
    distance: Floats = ((a - x) * (np.log(a) - np.log(x))).sum(axis=-1) / 2
    return distance


def cluster_smoothing(C: Floats, size: int) -> Floats:
    """`C` (T, size²) with each pixel's column replaced by the mean column of its cluster.

    Clusters grow from a grid of seeds with step floor(size/√32), 20 rounds of `divergence`.
    Clusters left without a pixel vanish; ties go to the first. The published code computes the
    divergence in float16, here it is float64, so pixels on a border between two clusters may
    fall on the other side. Zeros count as 1e-6 throughout, in the means too.
    """
    x = C.T.copy()
    x[x == 0] = TINY
    step = max(1, floor(size / sqrt(CLUSTERS)))
    seeds = [row * size + col for row in range(0, size, step) for col in range(0, size, step)]
    prototypes = [x[s] for s in seeds]
    for _ in range(CLUSTER_SWEEPS):
        cluster = np.stack([divergence(a, x) for a in prototypes]).argmin(axis=0)
        members = [x[cluster == k] for k in range(len(prototypes))]
        present = [k for k in range(len(prototypes)) if len(members[k])]
        prototypes = [members[k].mean(axis=0) for k in present]
        row_of = [present.index(int(k)) for k in cluster]
    return np.stack([prototypes[k] for k in row_of]).T


def class_maps(C: Floats, tokens: Sequence[Sequence[int]]) -> Floats:
    """M (N, K): for each class the mean of its tokens' maps in `C` (T, N)."""
    m = np.zeros((C.shape[1], len(tokens)))
    for k, of_class in enumerate(tokens):
        m[:, k] = C[list(of_class)].mean(axis=0)
    return m


# ---- refinement ---------------------------------------------------------------------------------


def transition(q: Floats, k: Floats, heads: Sequence[int] = HEADS, ent: float = 0.015) -> Floats:
    """T (N, N), rows are queries, from `q` (heads, N, d) and `k` (heads, N, d).

    The mean of the named heads' attention, divided by each key's largest value, made sharper by
    ent·log10(e·T) where T is not 0, cut at 0, rows made to sum to 1. A row cut down to zeros, for
    which the published code gives NaN, stays zeros.
    """
    maps = head_maps(q, k)
    t = maps[list(heads)].mean(axis=0)
    n = len(t)
    for j in range(n):
        largest = t[:, j].max()
        if largest > 0:
            t[:, j] = t[:, j] / largest
    there = t != 0
    t[there] = np.maximum(0.0, t[there] + ent * np.log10(e * t[there]))
    for i in range(n):
        t[i] = to_sum_one(t[i])
    return np.asarray(t)


def refine(T: Floats, M: Floats, iterations: int) -> Floats:
    """`M` (N, K) after M ← T M, minimum taken off, divided by its sum, `iterations` times.

    Before the first: (M − min)/ΣM per class, the sum being that of M with its minimum; since what
    follows divides again, only `iterations` 0 can tell.
    """
    m = M.astype(np.float64)
    for c in range(m.shape[1]):
        total = m[:, c].sum()
        m[:, c] = (m[:, c] - m[:, c].min()) / (total if total != 0 else 1.0)
    for _ in range(iterations):
        m = T @ m
        for c in range(m.shape[1]):
            m[:, c] = to_sum_one(m[:, c] - m[:, c].min())
    return m


def to_sum_one(values: Floats) -> Floats:
    """`values` divided by their sum; zeros stay zeros."""
    total = values.sum()
    return np.zeros_like(values) if total == 0 else np.asarray(values / total)


# ---- labels -------------------------------------------------------------------------------------


def picture_maps(M: Floats, input_size: Size, picture_size: Size) -> Floats:
    """`M` (N, K) at the picture's size (K, H, W), each map in [0, 1].

    Bilinear to the network's input (512²), min–max, bilinear to the picture, then minimum taken off
    and divided by the new maximum + 1e-6.
    """
    side = isqrt(len(M))
    maps = minmax_each(bilinear(M.T.reshape(-1, side, side), input_size))
    maps = bilinear(maps, picture_size)
    for k in range(len(maps)):
        maps[k] = maps[k] - maps[k].min()
        maps[k] = maps[k] / (maps[k].max() + TINY)
    return maps


def labels(maps: Floats, threshold: float) -> Labels:
    """Labels (H, W), 0 = background, of `maps` (K, H, W) in [0, 1].

    `threshold` 0: the background's score is (1 − max)². Above 0: values under it become 0, and a
    pixel without any value is background.
    """
    if len(maps) == 0:
        return np.zeros(maps.shape[1:], dtype=np.int64)
    if threshold == 0:
        background = (1 - maps.max(axis=0)) ** 2
        scores = np.concatenate([background[None], maps])
        return np.asarray(scores.argmax(axis=0), dtype=np.int64)
    kept = np.where(maps < threshold, 0.0, maps)
    winners = kept.argmax(axis=0) + 1
    return np.where(kept.max(axis=0) == 0, 0, winners).astype(np.int64)
