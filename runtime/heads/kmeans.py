"""The paper's baseline for segments without names: k-means on f."""

from __future__ import annotations

from functools import partial
from typing import Literal

from ... import kernels
from ..look.taps import Taps
from .base import Head, Reading
from .clustering import ClusteringOptions, read_clusters


def read(taps: Taps, options: ClusteringOptions, count: int | Literal["auto"]) -> Reading:
    """Scores of every segment found, by k-means on the L2-normalised features."""
    features = taps.features(text=taps.empty, **options.seen)
    return read_clusters(taps, features, options, count, partial(kernels.cluster, method="kmeans"))


KMEANS = Head(
    "kmeans",
    "unnamed",
    "k-means on the features (Table 3's baseline)",
    "a baseline beside spectral; slower",
    ClusteringOptions,
    ("features",),
    read,
)
