"""DiffCut and AutoSC, naively (Couairon et al., NeurIPS 2024; repository PaulCouairon/DiffCut).

Follows `diffcut/recursive_normalized_cut.py` and `diffcut/autosc.py` step by step, in float64. The
published code runs in float32, where a normalised affinity under about 1e-4 raised to the tenth
power becomes an exact zero; here it does not, so fewer nodes are dropped for exact zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
Size = tuple[int, int]

THRESHOLDS = 100
SHRINK = 0.99
FLAT = 1e-12  # a range of cosines below this is rounding, not structure
EIGENGAP_EPSILON = 1e-6
POWERS = (1.0, 5.0, 10.0, 15.0)  # AutoSC's candidates for the affinity's power


def unit_rows(features: Floats) -> Floats:
    """`features` (n, C), each row divided by its length."""
    lengths = np.sqrt((features * features).sum(axis=1, keepdims=True))
    unit: Floats = features / lengths
    return unit


def affinity(features: Floats, alpha: float) -> Floats:
    """Cosines of `features` (n, C), min–max over all entries, to the power `alpha`: (n, n).

    Features without any contrast (one picture, one vector) give ones: all tokens alike.
    """
    unit = unit_rows(features)
    cosines = unit @ unit.T
    cosines = (cosines + cosines.T) / 2  # a product's rounding need not be symmetric
    low, high = cosines.min(), cosines.max()
    if high - low <= FLAT:
        return np.ones_like(cosines)
    scaled: Floats = ((cosines - low) / (high - low)) ** alpha
    return scaled


# ---- recursive normalised cut -------------------------------------------------------------------


def recursive_cut(
    features: Floats, size: Size, tau: float = 0.5, alpha: float = 10.0, quirks: bool = True
) -> Labels:
    """Segments (h, w), numbered from 0, of `features` (h·w, C).

    With `quirks`, as published: below the first level every node with an exact zero in its row of
    the affinity is left out and keeps the label it had; min–max alone makes at least two such
    nodes. Without, only the nodes that the recursion has put aside are left out.
    """
    weights = affinity(features, alpha)
    count = len(features)
    parts: list[Mask] = []
    nothing = np.zeros(count, dtype=np.bool_)
    descend(weights, nothing, nothing, 0, tau, quirks, parts)
    return assembled(parts, count).reshape(size)


def descend(
    weights: Floats,
    mask: Mask,
    explored: Mask,
    level: int,
    tau: float,
    quirks: bool,
    parts: list[Mask],
) -> None:
    """One call of the recursion: cuts what is not `explored` nor in `mask`, appends to `parts`."""
    explored = explored | mask
    weights = weights * (1.0 - np.outer(explored, explored).astype(np.float64))
    if level == 0:
        keep = np.ones(len(weights), dtype=np.bool_)
    elif quirks:
        keep = ~(weights == 0.0).any(axis=1)
    else:
        keep = ~explored
    nodes = np.flatnonzero(keep)
    if len(nodes) <= 1:
        return
    cut = best_cut(weights[np.ix_(nodes, nodes)])
    if cut is None:
        return
    side, cost = cut
    if cost >= tau:
        return
    part = np.zeros(len(weights), dtype=np.bool_)
    part[nodes] = side
    parts.append(part)
    descend(weights, ~part, explored, level + 1, tau, quirks, parts)
    descend(weights, part, explored, level + 1, tau, quirks, parts)


def best_cut(weights: Floats) -> tuple[Mask, float] | None:
    """The side v > θ and the cost of the best of 100 thresholds θ; None if none can be judged."""
    degrees = weights.sum(axis=1)
    laplacian = np.diag(degrees) - weights
    _, vectors = laplacian_eigenvectors(weights)
    v = signed(vectors[:, 1])
    best: tuple[Mask, float] | None = None
    for threshold in np.linspace(SHRINK * v.min(), SHRINK * v.max(), THRESHOLDS):
        side = v > threshold
        cost = cut_cost(laplacian, degrees, side)
        if cost is not None and (best is None or cost < best[1]):
            best = (side, cost)
    return best


def laplacian_eigenvectors(weights: Floats) -> tuple[Floats, Floats]:
    """Ascending eigenvalues (n,) of D^-½ (D − A) D^-½ and its eigenvectors as columns (n, n).

    The eigenvectors are multiplied by D^-½ from the left.
    """
    degrees = weights.sum(axis=1)
    scale = 1.0 / np.sqrt(degrees)
    normalised = scale[:, None] * (np.diag(degrees) - weights) * scale[None, :]
    values, vectors = np.linalg.eigh(normalised)
    return np.asarray(values, dtype=np.float64), np.asarray(scale[:, None] * vectors)


def signed(v: Floats) -> Floats:
    """`v` with the sign that makes its entry of largest size positive."""
    return -v if v[np.argmax(np.abs(v))] < 0 else v


def cut_cost(laplacian: Floats, degrees: Floats, side: Mask) -> float | None:
    """The normalised cut (yᵀ(D−A)y)/(yᵀDy) of `side`; None where a side is empty."""
    share = float(degrees[side].sum() / degrees.sum())
    if not side.any() or side.all():
        return None
    ratio = share / (1 - share)
    x = 2.0 * side - 1.0
    y = (1 + x) - ratio * (1 - x)
    return float((y @ laplacian @ y) / (y @ (degrees * y)))


def assembled(parts: Sequence[Mask], count: int) -> Labels:
    """Labels (count,) from the parts in the order of their finding; no part: one segment."""
    summed = np.zeros(count, dtype=object)  # Python's integers: the sums can double at each part
    top = 1
    for part in parts:
        for i in np.flatnonzero(part):
            summed[i] += top
        top = max(summed) + 1
    distinct = sorted(set(summed))
    return np.array([distinct.index(value) for value in summed], dtype=np.int64)


def prototype_labels(features: Floats, size: Size, labels: Labels, out_size: Size) -> Labels:
    """Segments at `out_size` (H, W) from `features` (h·w, C) and `labels` (h, w).

    A prototype is the mean of a segment's unit features, not made unit again; nor are the unit
    features after their bilinear resize.
    """
    unit = unit_rows(features)
    segments = np.unique(labels)
    flat = labels.reshape(-1)
    prototypes = np.stack([unit[flat == s].mean(axis=0) for s in segments])
    maps = unit.T.reshape(-1, size[0], size[1])
    resized = bilinear(maps, out_size)
    scores = np.einsum("sc,chw->shw", prototypes, resized)
    return np.asarray(segments[scores.argmax(axis=0)], dtype=np.int64)


# ---- AutoSC -------------------------------------------------------------------------------------


def autosc(features: Floats, size: Size, quirks: bool = True) -> Labels:
    """Segments (h, w) of `features` (h·w, C), their number and the power found by the eigengap.

    With `quirks`, as published: the number comes from the best power, the eigenvectors from the
    last one tried. Without, both come from the best. Labels are columns of `cluster_qr`: some
    number may be absent.
    """
    best, chosen = -np.inf, 1
    last = of_best = np.zeros((0, 0))
    for alpha in POWERS:
        values, last = laplacian_eigenvectors(affinity(features, alpha))
        gaps = relative_gaps(values)
        if gaps.max() > best:
            best = float(gaps.max())
            chosen = max(1, int(gaps.argmax()))
            of_best = last
    vectors = last if quirks else of_best
    return cluster_qr(vectors[:, :chosen]).reshape(size)


def relative_gaps(values: Floats) -> Floats:
    """g_i = (λ_i − mean of λ_0..λ_i) / (that mean + 1e-6) of ascending `values` (n,)."""
    gaps = np.zeros(len(values))
    for i in range(len(values)):
        mean = values[: i + 1].mean()
        gaps[i] = (values[i] - mean) / (mean + EIGENGAP_EPSILON)
    return gaps


def cluster_qr(vectors: Floats) -> Labels:
    """Clusters (n,) of the rows of `vectors` (n, K) (Damle, Minden & Ying 2019)."""
    count = vectors.shape[1]
    pivots = pivoted_columns(vectors.T, count)
    left, _, right = np.linalg.svd(vectors[pivots].T)
    rotated = np.abs(vectors @ (left @ right))
    return np.asarray(rotated.argmax(axis=1), dtype=np.int64)


def pivoted_columns(matrix: Floats, count: int) -> list[int]:
    """The first `count` columns that QR with column pivoting picks from `matrix` (K, n).

    Modified Gram–Schmidt: the longest remaining column next, its direction taken from all others.
    """
    remainder = matrix.copy()
    pivots: list[int] = []
    for _ in range(count):
        lengths = (remainder * remainder).sum(axis=0)
        lengths[pivots] = -1.0
        pivot = int(lengths.argmax())
        pivots.append(pivot)
        length = np.sqrt(lengths[pivot])
        if length > 0:
            direction = remainder[:, pivot] / length
            remainder = remainder - np.outer(direction, direction @ remainder)
    return pivots
