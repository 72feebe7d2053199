"""Prototypes from ground truth (Table 7): how far the features alone go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .... import kernels
from ....kernels import Array, Grid
from ..looks import Look
from .base import Setting, Task


def prototypes_gt(task: Task) -> Array:
    """Labels (H, W), positions in the prompt's classes: the nearest of the fitted prototypes.

    A class that the training split never showed has a prototype of zeros: its score is 0.
    """
    assert task.prototypes is not None
    look, setting = task.look, task.setting
    features = look.features(setting.timestep, None, setting.feature_strides)
    xp = kernels.array_module(features[0].values)
    own = [xp.asarray(np.asarray(level)[task.prompted]) for level in task.prototypes]
    return task.labels(features, kernels.score_maps(features, own, setting.mode))


@dataclass
class GroundTruth:
    """Eq. 5 over a training split: Σ f under each class's mask, and the pixels it is over."""

    classes: int
    sums: list[NDArray[np.float64]] = field(default_factory=list)
    pixels: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes)

    def add(self, look: Look, setting: Setting, truth: NDArray[np.uint8]) -> None:
        """Add one picture of the training split."""
        features = look.features(setting.timestep, None, setting.feature_strides)
        xp, device = kernels.array_module(features[0].values), look.network.device
        masks = truth[None] == np.arange(self.classes)[:, None, None]
        counts = masks.sum((1, 2)).astype(np.float64)
        weights = Grid(xp.asarray(masks.astype(np.float32)))
        averages = device.download(
            *kernels.prototypes(features, weights, look.size, setting.mode)
        )()
        weighted = [level * counts[:, None] for level in averages]
        self.sums = (
            [a + b for a, b in zip(self.sums, weighted, strict=True)] if self.sums else weighted
        )
        self.pixels += counts

    def prototypes(self) -> list[NDArray[np.float32]]:
        """(classes, d_l) a level."""
        total = np.maximum(self.pixels, 1)[:, None]
        return [(level / total).astype(np.float32) for level in self.sums]
