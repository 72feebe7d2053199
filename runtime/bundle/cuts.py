"""Cuts of the UNet: the same graph, ended where all that is asked of it is there.

What a head reads decides how far a pass must go: Stable Diffusion 1.x's encoder is 42 % of the
multiply-adds to the features that MaskDiffusion reads, and layers finer than those lie beyond them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from .contract import (
    GRAPHS,
    UNET,
    AttentionOutput,
    FeatureOutput,
    Outputs,
    output_names,
)

ENCODER: Final = "encoder"
FEATURES: Final = "features"
WHOLE: Final = "whole"
CUTS: Final = (ENCODER, FEATURES, WHOLE)
"""Every cut that a bundle may have, the shortest first."""


def graph_of(cut: str) -> str:
    """The file name of a cut's graph."""
    return UNET if cut == WHOLE else f"{UNET.removesuffix('.onnx')}.{cut}.onnx"


@dataclass(frozen=True)
class Cut:
    """One cut: its name, and what it gives out."""

    name: str
    features: tuple[FeatureOutput, ...]
    attention: tuple[AttentionOutput, ...]
    self_attention: tuple[AttentionOutput, ...]
    encoder: tuple[FeatureOutput, ...]

    @property
    def graph(self) -> str:
        """The file name of its graph."""
        return graph_of(self.name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives out, in order."""
        return output_names(self)

    def gives(self, names: Collection[str]) -> bool:
        """Whether it gives out all of these."""
        return set(names) <= set(self.outputs)


def cuts(of: Outputs) -> tuple[Cut, ...]:
    """The cuts of a UNet that gives out `of`, the shortest first and the whole last.

    `encoder` ends with the encoder's output. `features` ends with the finest features, for heads
    that leave finer attention layers alone; where there are none, it is the whole.
    """
    found = []
    if of.encoder:
        found.append(Cut(ENCODER, (), (), (), of.encoder))
    finest = min(output.stride for output in of.features)
    attention, self_attention = (
        tuple(layer for layer in layers if layer.stride >= finest)
        for layers in (of.attention, of.self_attention)
    )
    if (attention, self_attention) != (of.attention, of.self_attention):
        found.append(Cut(FEATURES, of.features, attention, self_attention, of.encoder))
    return (*found, Cut(WHOLE, of.features, of.attention, of.self_attention, of.encoder))


def graph_names(of: Outputs) -> tuple[str, ...]:
    """The file name of every graph of a bundle, the cuts of its UNet before the whole of it."""
    others = tuple(name for name in GRAPHS if name != UNET)
    return (*others, *(cut.graph for cut in cuts(of)))
