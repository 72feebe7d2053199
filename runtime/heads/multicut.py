"""Segments by one normalised cut into all of them, without eigenvectors (Falcon, ICLR 2026,
arXiv 2504.05613)."""

from __future__ import annotations

from typing import Literal

from ... import kernels
from ..look.taps import Taps
from .base import Head, Reading
from .clustering import EncoderOptions, read_clusters


def read(taps: Taps, options: EncoderOptions, count: int | Literal["auto"]) -> Reading:
    """Scores of every segment found."""
    features = taps.features(text=taps.empty, **options.seen)
    return read_clusters(taps, features, options, count, kernels.multicut)


MULTICUT = Head(
    "multicut",
    "unnamed",
    "one normalised cut into all segments, by proximal steps (Falcon)",
    "segments without names, quickly, at a number that is given or found",
    EncoderOptions,
    ("features",),
    read,
)
