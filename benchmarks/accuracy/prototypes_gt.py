"""Prototypes from ground truth (Table 7): how far the features alone go. A head that only the
evaluation has, since it is fitted on pictures with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ...runtime.heads.base import Head, Reading
from ...runtime.heads.clustering import ClusteringOptions
from ...runtime.look.prompts import ClassName, shown_names
from ...runtime.look.taps import Taps
from ...runtime.look.words import EncodedText


def read(
    prototypes: Sequence[Array],
    classes: Sequence[str],
    taps: Taps,
    options: ClusteringOptions,
    text: EncodedText,
) -> Reading:
    """Scores of the fitted prototypes of the names in the prompt.

    A class that the training split never showed has a prototype of zeros: its score is 0.
    """
    features = taps.features(text=taps.empty, **options.seen)
    xp = taps.network.device.xp
    prompted = [classes.index(name) for name in text.prompts.classes]
    own = [xp.asarray(np.asarray(level)[prompted]) for level in prototypes]
    scores = kernels.score_maps(features, own, options.mode)
    return Reading(scores, scores[-1], features)


PROTOTYPES_GT: Final = Head(
    "prototypes-gt",
    "named",
    "prototypes from the ground truth of a training split (Table 7)",
    "a bound on what features could do",
    ClusteringOptions,
    ("features",),
    partial(read, (), ()),
)
"""Not fitted yet."""


def fitted(prototypes: Sequence[Array], classes: Sequence[ClassName]) -> Head:
    """The head with its prototypes, (classes, d_l) a level."""
    return replace(PROTOTYPES_GT, read=partial(read, prototypes, shown_names(classes)))


@dataclass
class GroundTruth:
    """Eq. 5 over a training split: Σ f under each class's mask, and the pixels it is over."""

    classes: int
    sums: list[NDArray[np.float64]] = field(default_factory=list)
    pixels: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes)

    def add(self, taps: Taps, options: ClusteringOptions, truth: NDArray[np.uint8]) -> None:
        """Add one picture of the training split, its device active."""
        features = taps.features(text=taps.empty, **options.seen)
        device = taps.network.device
        masks = truth[None] == np.arange(self.classes)[:, None, None]
        counts = masks.sum((1, 2)).astype(np.float64)
        weights = Grid(device.upload(masks.astype(np.float32)))
        averages = device.download(
            *kernels.prototypes(features, weights, taps.size, options.mode)
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
