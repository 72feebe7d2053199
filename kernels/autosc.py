"""AutoSC: spectral clustering whose number of segments, and power of the affinity, are where the
eigenvalues leap (Couairon et al., NeurIPS 2024, `diffcut/autosc.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .affinity import CellAffinity, rescaled
from .grid import Array, array_module
from .segments import MAX_SEGMENTS
from .spectral import NULL_AFFINITY, spectral_embedding

POWERS = (1.0, 5.0, 10.0, 15.0)
"""Powers of the affinity that are tried (published)."""

GAP_FLOOR = 1e-6
"""Added to the mean of eigenvalues before a division by it (published)."""

TINY = 1e-60
"""Squared lengths below this are none."""


def autosc(
    cosines: Array,
    segments: int | Literal["auto"] = "auto",
    published: bool = False,
    powers: Sequence[float] = POWERS,
) -> Array:
    """Labels (n,) int64 of cells with the given cosines (n, n), in [0, k); some may be absent.

    The gap of k segments is (λ_k − mean(λ_0..λ_k))/mean(λ_0..λ_k) for ascending eigenvalues of the
    normalised Laplacian; the largest, over k and the powers, is taken.

    Args:
        segments: k, for which the best power is found; "auto" looks for `MAX_SEGMENTS` at most.
        published: all n eigenvalues are looked at, densely for each power, and the eigenvectors
            are those of the last power whichever was the best.
    """
    xp, n = array_module(cosines), len(cosines)
    if n == 1 or segments == 1:
        return xp.zeros(n, dtype="int64")  # type: ignore[no-any-return]
    if segments == "auto":
        fewest, most = 1, n - 1 if published else min(n - 1, MAX_SEGMENTS)
    else:
        fewest = most = min(n - 1, segments)
    alike, size = rescaled(cosines), (1, n)
    best, k = -xp.inf, 1
    for power in powers:
        affinity = CellAffinity(alike, size, power)
        eigenvalues, vectors = spectral_embedding(affinity, most + 1)
        gaps = relative_gaps(eigenvalues)[fewest:]
        leap = float(gaps.max()) > best
        if leap:
            best, k = float(gaps.max()), fewest + int(gaps.argmax())
        if leap or published:
            told = int((eigenvalues < 1 - NULL_AFFINITY).sum())  # apart by these eigenvectors
            embedding = vectors / xp.sqrt(affinity.degrees)[:, None]
    return cluster_qr(embedding[:, : k if segments == "auto" else min(k, told)])


def relative_gaps(eigenvalues: Array) -> Array:
    """By how much each ascending eigenvalue exceeds the mean of those up to it, as a share of that
    mean: (k,) float64."""
    xp = array_module(eigenvalues)
    means = xp.cumsum(eigenvalues) / xp.arange(1, len(eigenvalues) + 1)
    return (eigenvalues - means) / (means + GAP_FLOOR)  # type: ignore[no-any-return]


def cluster_qr(vectors: Array) -> Array:
    """Clusters (n,) int64 of the rows of `vectors` (n, k) (Damle, Minden and Ying 2019): each of k
    rows that are far from one another, by QR with column pivoting, gives its cluster the nearest
    of all orthogonal axes, and every row goes to the axis along which it is longest."""
    xp, k = array_module(vectors), vectors.shape[1]
    rest = vectors.copy()
    pivots: list[int] = []
    for _ in range(k):
        lengths = (rest * rest).sum(axis=1)
        pivots.append(int(lengths.argmax()))
        axis = rest[pivots[-1]] / xp.sqrt(xp.maximum(lengths[pivots[-1]], TINY))
        rest -= (rest @ axis)[:, None] * axis
    left, _, right = xp.linalg.svd(vectors[xp.asarray(pivots)].T)
    return abs(vectors @ (left @ right)).argmax(axis=1)  # type: ignore[no-any-return]
