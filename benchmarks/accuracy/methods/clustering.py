"""Segments without names: spectral clustering of the affinity (Eq. 7), and k-means on f."""

from __future__ import annotations

from .... import kernels
from ....kernels import Array
from ....kernels import Method as Clustering
from .base import Task


def unsupervised(task: Task) -> Array:
    """Segments (H, W) by spectral clustering, then Eq. 5 and 6."""
    return _segments(task, "spectral")


def kmeans(task: Task) -> Array:
    """Segments (H, W) by k-means on the L2-normalised features, then Eq. 5 and 6."""
    return _segments(task, "kmeans")


def _segments(task: Task, clustering: Clustering) -> Array:
    look, setting = task.look, task.setting
    features = look.features(setting.timestep, None, setting.feature_strides)
    k = len(task.present) if setting.segments == "present" else setting.segments
    labels, count = kernels.cluster(features, k, clustering, setting.sharpness)
    weights = kernels.cluster_weights(labels, count)
    averages = kernels.prototypes(features, weights, weights.size, setting.mode)
    scores = kernels.score_maps(features, averages, setting.mode)
    return task.labels(features, scores)
