"""MaskCLIP: CLIP's patches themselves, compared with names (Zhou et al., ECCV 2022, arXiv
2112.01071).

In the last block every token attends to itself alone; the block's residual, its MLP, the final
normalisation and the projection follow as in the block's own forward, and stand in the graph. The
published key smoothing normalises keys along the wrong axis, over a window's cells; here it is
what the paper means, over a key's channels.
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
class MaskClipOptions(HeadOptions):
    """The published basic method by default."""

    templates: Templates = option("all", TEMPLATES_HELP)
    denoising: float = option(
        0.0,
        "prompt denoising: leave out names whose probability is below this everywhere in the "
        "picture, 0.5 as published; 0 keeps all",
        least=0,
        below=1,
    )
    smoothing: float = option(
        0.0,
        "key smoothing: cells whose highest probability is below this take those of all cells, "
        "weighted by how alike their keys are, 1 as published; 0 leaves all as they are",
        least=0,
        most=1,
    )


def read(taps: Taps, options: MaskClipOptions, text: EncodedText) -> Reading:
    """The cosine of every cell to every name, or its probability where keys smooth it."""
    features = taps.aligned(contract.MASKCLIP)
    names = taps.embeddings(text, TEMPLATES[options.templates])
    with taps.stage("attention"):
        scores = kernels.cosines(features.values, names)
        absent = kernels.unlikely(scores, options.denoising) if options.denoising else None
        if options.smoothing:
            keys = taps.aligned(contract.MASKCLIP_KEYS).values
            scores = kernels.smoothed(scores, keys, options.smoothing, absent)
    grid = Grid(scores, features.extent)
    return Reading([grid], grid, absent=absent)


MASKCLIP = Head(
    "maskclip",
    "named",
    "the values of CLIP's last block beside the names (MaskCLIP)",
    "named classes with CLIP alone; the paper's baseline",
    MaskClipOptions,
    ("aligned",),
    read,
    sentences=lambda options: TEMPLATES[options.templates],
)
