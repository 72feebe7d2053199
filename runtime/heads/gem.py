"""GEM: tokens of CLIP grouped by self-self attention, compared with names (Bousselham et al.,
CVPR 2024, arXiv 2312.00878).

The second stream runs beside the last six blocks, with one iteration and a temperature from the
tokens' own length, as published; it stands in the graph. Positions are resized as transformers
and MaskCLIP do it (bicubic, a = −0.75); GEM's code antialiases (a = −0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

from ... import kernels
from ...kernels import Grid
from ..bundle import contract
from ..look.taps import Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .options import HeadOptions, option
from .templates import TEMPLATES, TEMPLATES_HELP, Templates


@dataclass(frozen=True)
class GemOptions(HeadOptions):
    """As published by default."""

    templates: Templates = option("one", TEMPLATES_HELP)


def read(taps: Taps, options: GemOptions, text: EncodedText) -> Reading:
    """The cosine of every cell to every name."""
    features = taps.aligned(contract.GEM)
    names = taps.embeddings(text, TEMPLATES[options.templates])
    with taps.stage("attention"):
        grid = Grid(kernels.cosines(features.values, names), features.extent)
    return Reading([grid], grid)


GEM = Head(
    "gem",
    "named",
    "CLIP's tokens grouped by what is alike, beside the names (GEM)",
    "named classes with CLIP alone; the paper's other baseline",
    GemOptions,
    ("aligned",),
    read,
    sentences=lambda options: TEMPLATES[options.templates],
)
