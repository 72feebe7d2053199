"""Seg4Diff (arXiv 2509.18096): what the picture's patches give to words in the attention that both
share; to names, or to the tokens of the empty prompt, whose maps are merged into segments.

The published prompt and argmax know which classes are in the picture; here they are the names'
own, joined by "and" as for every head, where the published ones are joined by blanks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ... import kernels
from ...kernels import Array, Grid
from ..look.taps import Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .maps import membership
from .options import HeadOptions, option


@dataclass(frozen=True)
class Seg4DiffOptions(HeadOptions):
    """As published by default."""

    timestep: int = option(
        260,
        "noise level, an index into the schedule; 260 is the published one, the eighth from the "
        "end of 28 steps",
        least=0,
    )


@dataclass(frozen=True)
class MergedOptions(Seg4DiffOptions):
    """As published by default."""

    kl_threshold: float = option(
        0.035,
        "maps of tokens nearer than this, by half the symmetric divergence, are one segment's; "
        "0.035 is the published configuration's, for which the published code takes 0.1; less "
        "finds more segments",
        least=0,
    )


def read(taps: Taps, options: Seg4DiffOptions, text: EncodedText) -> Reading:
    """The share of every name at a pixel, of the picture as one square."""
    shares = _shares(taps, options, text)
    with taps.stage("attention"):
        own = membership(taps, text)
        grid = Grid((own @ shares.reshape(len(shares), -1)).reshape(-1, *shares.shape[1:]))
    return Reading([grid], grid)


def read_merged(taps: Taps, options: MergedOptions, count: int | Literal["auto"]) -> Reading:
    """One merged map a segment, of the picture as one square."""
    shares = _shares(taps, options, taps.empty.every_token())
    with taps.stage("segments"):
        maps = kernels.merged_tokens(shares, options.kl_threshold)
    return Reading([maps], maps)


def _shares(taps: Taps, options: Seg4DiffOptions, text: EncodedText) -> Array:
    """(tokens, rows, columns): what a patch gives to each, the mean over heads and blocks."""
    layers = taps.logits(taps.square, options.timestep, text)
    with taps.stage("attention"):
        xp = taps.network.device.xp
        shares: Array = sum(xp.exp(layer).mean(axis=0) for layer in layers) / len(layers)
    return shares


SEG4DIFF = Head(
    "seg4diff",
    "named",
    "every pixel takes the name that a transformer's joint attention gives it most to (Seg4Diff)",
    "named classes, of Stable Diffusion 3",
    Seg4DiffOptions,
    ("joint",),
    read,
    wordless=lambda options: False,
)

SEG4DIFF_SEGMENTS = Head(
    "seg4diff-segments",
    "unnamed",
    "merging what the empty prompt's tokens take of a transformer's joint attention (Seg4Diff)",
    "segments without their number, of Stable Diffusion 3",
    MergedOptions,
    ("joint",),
    read_merged,
    counts=False,
)
