"""Seg4Diff (arXiv 2509.18096), open vocabulary: what the picture's patches give to words in the
attention that both share.

The published prompt and argmax know which classes are in the picture; here they are the names'
own, joined by "and" as for every head, where the published ones are joined by blanks.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels import Grid
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


def read(taps: Taps, options: Seg4DiffOptions, text: EncodedText) -> Reading:
    """The share of every name at a pixel, of the picture as one square."""
    layers = taps.logits(taps.square, options.timestep, text)
    with taps.stage("attention"):
        xp = taps.network.device.xp
        shares = sum(xp.exp(layer).mean(axis=0) for layer in layers) / len(layers)
        own = membership(taps, text)
        grid = Grid((own @ shares.reshape(len(shares), -1)).reshape(-1, *shares.shape[1:]))
    return Reading([grid], grid)


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
