"""Cuts of the network: the same graph, ended where all that is asked of it is there.

What a head reads decides how far a pass must go: Stable Diffusion 1.x's encoder is 42 % of the
multiply-adds to the features that MaskDiffusion reads, and layers finer than those lie beyond them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from .contract import (
    GEM,
    KEYS,
    VAE_ENCODER,
    VALUES,
    AttentionOutput,
    FeatureOutput,
    Manifest,
    Outputs,
    aligned_name,
    output_names,
)

ENCODER: Final = "encoder"
FEATURES: Final = "features"
WHOLE: Final = "whole"
CUTS: Final = (ENCODER, FEATURES, WHOLE)
"""Every cut that a bundle may have, the shortest first."""


def graph_of(cut: str, network: str) -> str:
    """The file name of a cut's graph, of a network's whole one."""
    return network if cut == WHOLE else f"{network.removesuffix('.onnx')}.{cut}.onnx"


@dataclass(frozen=True)
class Cut:
    """One cut: its name, and what it gives out."""

    name: str
    features: tuple[FeatureOutput, ...]
    attention: tuple[AttentionOutput, ...]
    self_attention: tuple[AttentionOutput, ...]
    encoder: tuple[FeatureOutput, ...]
    aligned: tuple[FeatureOutput, ...]
    network: str

    @property
    def graph(self) -> str:
        """The file name of its graph."""
        return graph_of(self.name, self.network)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives out, in order."""
        return output_names(self)

    def gives(self, names: Collection[str]) -> bool:
        """Whether it gives out all of these."""
        return set(names) <= set(self.outputs)


def cuts(of: Outputs) -> tuple[Cut, ...]:
    """The cuts of a network that gives out `of`, the shortest first and the whole last.

    `encoder` ends with the encoder's output. `features` ends with the finest features, for heads
    that leave finer attention layers alone, and leaves out GEM's map, which costs as much again.
    Where a cut would be the whole, there is none.
    """
    own = of.network
    whole = Cut(WHOLE, of.features, of.attention, of.self_attention, of.encoder, of.aligned, own)
    found = []
    if of.encoder:
        found.append(Cut(ENCODER, (), (), (), of.encoder, (), own))
    if of.features:
        finest = min(output.stride for output in of.features)
        attention, self_attention = (
            tuple(layer for layer in layers if layer.stride >= finest)
            for layers in (of.attention, of.self_attention)
        )
        aligned = tuple(o for o in of.aligned if o.name != aligned_name(GEM, o.stride))
        layers = attention, self_attention, of.encoder
        found.append(Cut(FEATURES, of.features, *layers, aligned, own))
    return (*(cut for cut in found if cut.outputs != whole.outputs), whole)


def graph_names(manifest: Manifest) -> tuple[str, ...]:
    """The file name of every graph of a bundle, the cuts of its network before the whole of it."""
    return (
        *((VAE_ENCODER,) if manifest.latent else ()),
        *(text.graph for text in manifest.texts),
        *((KEYS,) if manifest.late else ()),
        *((VALUES,) if manifest.with_values else ()),
        *(cut.graph for cut in cuts(manifest)),
    )
