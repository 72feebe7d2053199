"""MaskDiffusion: attention class maps, prototypes under them, the nearest prototype (Eq. 4–6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ... import kernels
from ...kernels import Mode, Pooling
from ..errors import MdrtError
from ..look.taps import Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .maps import MODE_HELP, POOLING_HELP, WORDS_HELP, Words, class_maps, view
from .options import HeadOptions, Strides, option


@dataclass(frozen=True)
class MaskDiffusionOptions(HeadOptions):
    """The paper's choices by default."""

    mode: Mode = option("paper", MODE_HELP)
    pooling: Pooling = option("exp", POOLING_HELP)
    words: Words = option("driven", WORDS_HELP)
    map_power: float = option(
        1.0,
        "power of a class's map that its prototype is averaged with (Eq. 5): 1 is the paper's, 2 "
        "trusts the map's peaks more",
        above=0,
        goes_with="pooling",
    )
    attention: float = option(
        0.0,
        "share of a class's own map in a pixel's score, where the cosine to its prototype (Eq. 6) "
        "has the rest: 0 is the paper's, 1 the maps alone",
        least=0,
        most=1,
        goes_with="pooling",
    )
    presence: float = option(
        0.0,
        "leave out names that win less than this share of the attention's cells, as 0.01: they are "
        "not in the picture; 0 keeps all, others need pooling softmax",
        least=0,
        below=1,
        goes_with="pooling",
    )
    feature_strides: Strides = option(None, "features that are read, by image pixels per cell")
    attention_strides: Strides = option(None, "attention layers that are read, likewise")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.presence and self.pooling != "softmax":
            raise MdrtError(
                f"presence {self.presence:g} compares probabilities and needs pooling softmax, "
                f"not {self.pooling}; set pooling=softmax too, or presence=0"
            )


def read(taps: Taps, options: MaskDiffusionOptions, text: EncodedText) -> Reading:
    """Scores of every name: the cosine to its prototype, in which its map may have a share."""
    released = options.mode == "released"
    if released:  # features of the empty prompt
        features = taps.features(options.timestep, taps.empty, options.feature_strides)
    logits = taps.logits(text=text, **view(taps, options))
    found = class_maps(taps, options, text, logits)
    if not released:  # of the same pass as the maps
        drives = taps.empty if options.words == "late" else text
        features = taps.features(options.timestep, drives, options.feature_strides)
    with taps.stage("attention"):
        weights = replace(found.maps, values=found.maps.values**options.map_power)
        absent = None
        if options.presence:
            absent = kernels.absent(found.won_shares(text), options.presence)
    with taps.stage("prototypes"):
        norms = taps.norms(features) if released else None
        prototypes = kernels.prototypes(features, weights, taps.size, options.mode, norms)
        scores = kernels.score_maps(features, prototypes, options.mode)
    return Reading(scores, weights, features, found.maps, options.attention, absent)


MASKDIFFUSION = Head(
    "maskdiffusion",
    "named",
    "attention class maps, a prototype under each, the nearest prototype (Eq. 4 to 6)",
    "named classes; the paper's method",
    MaskDiffusionOptions,
    ("features", "logits"),
    read,
    wordless=lambda options: options.mode == "released" or options.words == "late",
)
