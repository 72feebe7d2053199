"""DiffSeg: segments by merging self-attention maps (Tian et al., CVPR 2024, arXiv 2308.12469)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ... import kernels
from ..look.taps import Taps
from .base import Head, Reading
from .options import HeadOptions, option


@dataclass(frozen=True)
class DiffSegOptions(HeadOptions):
    """The published choices by default."""

    timestep: int = option(
        299, "noise level, an index into the schedule; 299 is the published t = 300 (§4)", least=0
    )
    kl_threshold: float = option(
        1.1,
        "maps nearer than this, by half the symmetric divergence, are one segment's: 1.1 for "
        "COCO-Stuff and 0.9 for Cityscapes as published; less finds more segments",
        least=0,
    )


def read(taps: Taps, options: DiffSegOptions, count: int | Literal["auto"]) -> Reading:
    """One merged map a segment, of the picture as one square."""
    own = taps.self_attention(options.timestep)
    with taps.stage("segments"):
        layers = [kernels.mean_map([(layer.queries, layer.keys)]) for layer in own]
        maps = kernels.merged_maps(layers, options.kl_threshold)
    return Reading([maps], maps)


DIFFSEG = Head(
    "diffseg",
    "unnamed",
    "iterative merging of self-attention maps (DiffSeg)",
    "segments without names and without their number; needs self-attention",
    DiffSegOptions,
    ("self_attention",),
    read,
    counts=False,
)
