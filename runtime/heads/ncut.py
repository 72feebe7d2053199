"""DiffCut: segments by cutting a graph of the features in two again and again (Couairon et al.,
NeurIPS 2024, arXiv 2406.02842)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from ... import kernels
from ...kernels import CutMethod, Quirks
from ..look.taps import Taps
from .base import Head, Reading
from .clustering import Clusterer, EncoderOptions, read_clusters
from .options import option

Given: TypeAlias = Literal["cuts", "kway"]


@dataclass(frozen=True)
class NcutOptions(EncoderOptions):
    """The published choices by default."""

    tau: float = option(
        0.5,
        "a part is cut in two while the normalised cut costs less than this; more finds more "
        "segments",
        above=0,
        most=2,
    )
    alpha: float = option(
        10.0,
        "power of the affinity, which the cosines are that are rescaled to 0 to 1; more keeps only "
        "what is most alike together",
        above=0,
    )
    method: CutMethod = option(
        "recursive",
        "recursive: one part in two at a time (DiffCut); autosc: all at once, with tau and alpha "
        "found where the eigenvalues leap (AutoSC)",
    )
    given: Given = option(
        "cuts",
        "what makes segments whose number is given; cuts: the cheapest cuts; kway: spectral "
        "clustering, all at once, as head spectral has it",
    )
    quirks: Quirks = option(
        "none",
        "published: also what the published code does unmeant: cells with an affinity of exactly 0 "
        "take no part after the first cut, autosc cuts by the last power's eigenvectors, and noise "
        "of a uniform picture is cut; none: none of it",
    )


def read(taps: Taps, options: NcutOptions, count: int | Literal["auto"]) -> Reading:
    """Scores of every segment found."""
    cluster: Clusterer = kernels.cluster
    if count == "auto" or options.given == "cuts":
        cluster = partial(
            kernels.ncut,
            tau=options.tau,
            alpha=options.alpha,
            method=options.method,
            quirks=options.quirks,
        )
    features = taps.features(text=taps.empty, **options.seen)
    return read_clusters(taps, features, options, count, cluster)


NCUT = Head(
    "ncut",
    "unnamed",
    "recursive normalised cuts of the features' cells (DiffCut)",
    "segments without names, of all sizes, their number by the cost of a cut",
    NcutOptions,
    ("features",),
    read,
)
