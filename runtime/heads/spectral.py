"""The paper's segments without names: spectral clustering of the affinity of all pixels (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ... import kernels
from ...kernels import AFFINITY_SIZE
from ..errors import MdrtError
from ..look.taps import Taps
from .base import Head, Reading
from .clustering import ClusteringOptions, read_clusters
from .options import option


@dataclass(frozen=True)
class SpectralOptions(ClusteringOptions):
    """The paper's choices by default."""

    affinity: Literal["grid", "cells"] = option(
        "grid",
        "what is compared: pixels of the paper's 100×100 grid, or the finest features' own cells",
    )
    affinity_power: float = option(
        1.0,
        "power of the affinity between cells (affinity cells): above 1 keeps like cells together "
        "and lets the others go; 1 is the paper's",
        above=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affinity_power != 1 and self.affinity != "cells":
            raise MdrtError(
                f"affinity_power {self.affinity_power:g} is of the affinity between cells; "
                "give affinity cells too"
            )


def read(taps: Taps, options: SpectralOptions, count: int | Literal["auto"]) -> Reading:
    """Scores of every segment found."""
    size = AFFINITY_SIZE if options.affinity == "grid" else None
    power = options.affinity_power
    cluster = partial(kernels.cluster, method="spectral", size=size, power=power)
    features = taps.features(text=taps.empty, **options.seen)
    return read_clusters(taps, features, options, count, cluster)


SPECTRAL = Head(
    "spectral",
    "unnamed",
    "spectral clustering of the affinity of all pixels (Eq. 7)",
    "segments without names; the paper's method",
    SpectralOptions,
    ("features",),
    read,
)
