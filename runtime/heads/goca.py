"""GoCA (arXiv 2603.06178): class maps of the heads and layers that matter, improved by
self-attention.

The published prompt is a caption, and its content tokens are what a map competes with at a pixel;
here they are the names' own. The published background is several objects: a class called
"background" with other names beside has the largest of all its names' maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ..look.prompts import Prompts
from ..look.taps import CrossAttention, Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .maps import WORDS_HELP, Words
from .options import HeadOptions, option

BACKGROUND: Final = "background"

REFERENCE_STRIDE: Final = 16
"""Image pixels per cell of the layer whose queries layers are compared with: up2.1 of SD 1.5."""


@dataclass(frozen=True)
class GocaOptions(HeadOptions):
    """As published by default."""

    timestep: int = option(
        99, "noise level, an index into the schedule; 99 is the published t = 100", least=0
    )
    heads: Literal["dot", "mean"] = option(
        "dot",
        "dot: a head weighs, pixel by pixel, by its share in what its layer gives; mean: all alike",
    )
    layers: Literal["graph", "mean"] = option(
        "graph",
        "graph: a layer weighs by how far its self-attention agrees with the affinity of the "
        "queries at stride 16; one without self-attention in the bundle weighs as the others do in "
        "the mean; mean: all alike",
    )
    propagations: int = option(
        2, "how often maps are spread by the finest self-attention", least=0, most=100
    )
    words: Words = option("driven", WORDS_HELP)


def read(taps: Taps, options: GocaOptions, text: EncodedText) -> Reading:
    """The map of every name, in [0, 1], of the picture as one square."""
    layers = taps.cross_attention(options.timestep, text, late=options.words == "late")
    own, declared = taps.self_attention(options.timestep), taps.network.manifest.self_attention
    with taps.stage("attention"):
        pairs = [(layer.queries, layer.keys) for layer in own]
        beside = {a.layer: pair for a, pair in zip(declared, pairs, strict=True)}
        finest = min(a.stride for a in declared)
        spreading = [beside[a.layer] for a in declared if a.stride == finest]
        side = math.isqrt(spreading[0][0].shape[1])
        if options.layers == "graph":
            queries = reference(layers).queries.mean(axis=0)  # over the prompts of a long list
            weights = kernels.layer_weights(
                queries, [beside.get(a.declared.layer.replace("attn2", "attn1")) for a in layers]
            )
        else:
            weights = taps.network.device.xp.full(len(layers), 1 / len(layers), dtype="float32")
        token_maps = (_token_maps(taps, options, text, layer) for layer in layers)
        at_side = (kernels.at_side(maps, side) for maps in token_maps)
        tokens = reduce(add, map(mul, weights, at_side))
        members, first = maps_apart(text.prompts)
        maps = kernels.minmax(kernels.rescaled(tokens, taps.network.device.upload(members)))
        maps = kernels.largest(maps, first)
        if len(spreading) > 3:  # SD 1.5's first and last are not among the published ones
            spreading = spreading[1:-1]
        maps = kernels.minmax(kernels.spread(spreading, maps, options.propagations))
        grid = Grid(maps.astype("float32"))
    return Reading([grid], grid)


def maps_apart(prompts: Prompts) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What has a map of its own, every class, and of the background every name: (maps, tokens)
    rows that sum to 1, the mean over its tokens, a class's one behind the other; and (classes,)
    the first of each class."""
    order = np.lexsort((prompts.position, prompts.prompt, prompts.owner))
    owner, prompt, place = (a[order] for a in (prompts.owner, prompts.prompt, prompts.position))
    bare = np.array([name.lower() == BACKGROUND for name in prompts.classes])[owner[1:]]
    # a joint stands between two names: the tokens of one alone follow one another
    another = bare & ((np.diff(prompt) != 0) | (np.diff(place) != 1))
    starts = np.concatenate([[True], (np.diff(owner) != 0) | another])
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(starts) - 1
    own = kernels.membership(number, int(starts.sum()))
    first = np.searchsorted(owner[starts], np.arange(len(prompts.classes)))
    return own / own.sum(axis=1, keepdims=True), first


def reference(layers: Sequence[CrossAttention]) -> CrossAttention:
    """The last layer at the stride nearest 16, of a block's second transformer if there is one."""
    nearest = min(
        (a.declared.stride for a in layers), key=lambda stride: abs(stride - REFERENCE_STRIDE)
    )
    at = [layer for layer in layers if layer.declared.stride == nearest]
    second = [layer for layer in at if ".attentions.1." in layer.declared.layer]
    return (second or at)[-1]


def _token_maps(
    taps: Taps, options: GocaOptions, text: EncodedText, layer: CrossAttention
) -> Array:
    """C_l of all classes' tokens, (tokens, r, r)."""
    prompts, device = text.prompts, taps.network.device
    probabilities, values = kernels.joined(
        layer.queries, layer.keys, layer.values, device.upload(prompts.shared)
    )
    if options.heads == "dot":
        weights = kernels.head_weights(probabilities, values)
    else:
        heads, pixels = probabilities.shape[:2]
        weights = device.xp.full((heads, pixels), 1 / heads, dtype="float32")
    places = device.upload(prompts.prompt * prompts.input_ids.shape[1] + prompts.position)
    maps = kernels.layer_map(probabilities[:, :, places], weights)
    side = math.isqrt(maps.shape[1])
    return maps.reshape(-1, side, side)


GOCA = Head(
    "goca",
    "named",
    "class maps of the heads and layers that matter, improved by self-attention (GoCA)",
    "named classes, of a bundle that gives out many layers; needs self-attention",
    GocaOptions,
    ("values", "self_attention"),
    read,
    wordless=lambda options: options.words == "late",
)
