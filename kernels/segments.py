"""Unsupervised segments: pixels clustered on the affinity grid, each segment a class map.

A segment's one-hot map stands for a_c in Eq. 5 (averaged on the affinity grid itself); Eq. 6 then
assigns every pixel of the image as for named classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from .affinity import AFFINITY_SIZE, Affinity, CellAffinity, cosines
from .found import found
from .grid import Array, Grid, Size, array_module
from .kmeans import gram_kmeans, kmeans
from .spectral import NULL_AFFINITY, normalised_rows, spectral_embedding

Method: TypeAlias = Literal["spectral", "kmeans"]

MAX_SEGMENTS = 16
"""Most segments that "auto" looks for."""

RESTARTS: dict[Method, int] = {"spectral": 8, "kmeans": 24}
"""Runs of k-means, by what it clusters: the best optimum known takes most runs in the embedding,
and about every second in the features."""


def cluster(
    features: Sequence[Grid],
    segments: int | Literal["auto"] = "auto",
    method: Method = "spectral",
    size: Size | None = AFFINITY_SIZE,
    power: float = 1.0,
    max_segments: int = MAX_SEGMENTS,
    seed: int = 0,
) -> tuple[Array, int]:
    """Segment labels (rows, columns) int64 and their number k.

    Labels lie in [0, k), numbered as they first appear from the top left. Method "spectral" is
    k-means on the spectral embedding of the affinity; "kmeans" is the paper's baseline, k-means on
    the L2-normalised features. "auto" finds k in the features, the same for every choice here, and
    may find one segment (`found`). k is lower than asked for where pixels have fewer distinct
    features.

    Args:
        size: the grid whose pixels are compared, the paper's by default; None takes the finest
            level's own cells, whose affinity can be raised to a power.
        power: of the affinity between cells.

    Raises:
        ValueError: a choice that is none, or a power of what is not the cells' affinity.
    """
    check_segments(segments)
    if method not in ("spectral", "kmeans"):
        raise ValueError(f"method {method!r} is not one of spectral, kmeans")
    if power != 1 and size is not None:
        raise ValueError(f"power is {power:g}; only the affinity between cells (size None) has one")
    if method == "kmeans" and size is None:
        raise ValueError("k-means on the features needs a size: cells have no exact inner products")
    k = found(features, max_segments) if segments == "auto" else segments
    if size is None:
        affinity: Affinity = CellAffinity(*cosines(features), power)
    else:
        affinity = Affinity(features, size)
    k = min(k, affinity.n)
    if method == "spectral":
        eigenvalues, eigenvectors = spectral_embedding(affinity, k)
        points = normalised_rows(eigenvectors[:, eigenvalues < 1 - NULL_AFFINITY])
        clusters = kmeans(points, k, seed, RESTARTS[method])
    else:  # the inner products of L2-normalised features are the affinity, their lengths 1
        clusters = gram_kmeans(
            affinity.matvec, affinity.xp.ones(affinity.n), k, seed, RESTARTS[method]
        )
    return in_order_of_appearance(clusters.labels).reshape(affinity.size), clusters.k


def cluster_weights(labels: Array, k: int) -> Grid:
    """One-hot maps of the segments (rows, columns): a grid of (k, rows, columns) float32."""
    numbers = array_module(labels).arange(k)[:, None, None]
    return Grid((labels[None] == numbers).astype("float32"))


def check_segments(segments: int | Literal["auto"]) -> None:
    """Raise unless it is a number of segments, or "auto"."""
    if segments != "auto" and segments < 1:
        raise ValueError(f"segments must be at least 1 or 'auto', got {segments}")


def in_order_of_appearance(labels: Array) -> Array:
    """The same partition (n,), numbered 0, 1, … by each cluster's first point."""
    xp = array_module(labels)
    _, first, inverse = xp.unique(labels, return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse]  # type: ignore[no-any-return]
