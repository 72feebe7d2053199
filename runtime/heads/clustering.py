"""Segments from clustered features, for the heads that cluster: Eq. 5 and 6 over one-hot maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from ... import kernels
from ...kernels import Array, Grid, Mode, Size
from ..look.taps import Taps
from .base import Reading
from .maps import MODE_HELP
from .options import HeadOptions, Strides, option

ONE_COLOUR: Final = 8
"""A picture in which no channel spans more levels than this holds nothing to tell apart, even where
features vary from place to place, as a denoiser's do that was never shown an empty picture."""


Source: TypeAlias = Literal["decoder", "encoder"]
Count: TypeAlias = int | Literal["auto"]

FEATURES_HELP: Final = (
    "what is clustered: the decoder's features, the paper's; or the encoder's last "
    "self-attention (DiffCut's), for which less than half of the network need run"
)


@dataclass(frozen=True)
class ClusteringOptions(HeadOptions):
    """The paper's choices by default."""

    mode: Mode = option("paper", MODE_HELP)
    features: Source = option("decoder", FEATURES_HELP)
    feature_strides: Strides = option(
        None, "features of the decoder that are read, by image pixels per cell"
    )

    scales: bool = option(
        False,
        "average the features with those of the picture seen at three quarters and 1.4 times the "
        "size: steadier segments of photographs, for three to four times the network's time; with "
        "mirror, six views",
    )

    @property
    def seen(self) -> dict[str, Any]:
        """What of a look is clustered: arguments of `Taps.features`."""
        return {
            "timestep": self.timestep,
            "strides": self.feature_strides,
            "encoder": self.features == "encoder",
            "scales": self.scales,
        }


@dataclass(frozen=True)
class EncoderOptions(ClusteringOptions):
    """What DiffCut and Falcon cluster, as published, by default."""

    timestep: int = option(
        50,
        "noise level that the network sees the picture at, an index into the schedule; 50 is the "
        "published one",
        least=0,
    )
    features: Source = option("encoder", FEATURES_HELP)


Clusterer: TypeAlias = Callable[[Sequence[Grid], Count], tuple[Array, int]]
"""From features and how many segments to find: labels (rows, columns) and how many they are."""


def read_clusters(
    taps: Taps,
    features: list[Grid],
    options: ClusteringOptions,
    count: Count,
    cluster: Clusterer,
) -> Reading:
    """Cluster features; each cluster's one-hot map stands for a_c in Eq. 5.

    Args:
        features: of the empty prompt.
        count: how many segments; "auto" finds it in the features, one for a picture of one colour.
    """
    if count == "auto" and int(np.ptp(taps.image, axis=(0, 1)).max()) <= ONE_COLOUR:
        count = 1
    with taps.stage("segments"):
        labels, found = cluster(features, count)
        weights = kernels.cluster_weights(labels, found)
    with taps.stage("prototypes"):  # over the clustering grid, where the one-hot maps are exact
        size: Size = weights.size
        prototypes = kernels.prototypes(features, weights, size, options.mode)
        scores = kernels.score_maps(features, prototypes, options.mode)
    return Reading(scores, weights, features)
