"""The cross-attention's argmax: what the class maps say without features."""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels import Mode, Pooling
from ..look.taps import Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .maps import MODE_HELP, POOLING_HELP, WORDS_HELP, Words, class_maps, view
from .options import HeadOptions, Strides, option


@dataclass(frozen=True)
class AttentionOptions(HeadOptions):
    """The paper's choices by default."""

    mode: Mode = option("paper", MODE_HELP)
    pooling: Pooling = option("exp", POOLING_HELP)
    words: Words = option("driven", WORDS_HELP)
    attention_strides: Strides = option(
        None, "attention layers that are read, by image pixels per cell"
    )


def read(taps: Taps, options: AttentionOptions, text: EncodedText) -> Reading:
    """The class map of every name."""
    logits = taps.logits(text=text, **view(taps, options))
    maps = class_maps(taps, options, text, logits).maps
    return Reading([maps], maps)


ATTENTION = Head(
    "attention",
    "named",
    "the class maps alone: every pixel takes the name whose attention is highest (Eq. 4)",
    "a look at what the attention says; coarse",
    AttentionOptions,
    ("logits",),
    read,
    wordless=lambda options: options.words == "late",
)
