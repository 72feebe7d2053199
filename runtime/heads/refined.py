"""Class maps of the cross-attention, improved by self-attention: three published recipes and ours.

What spreads a map is the network's own opinion on which pixels belong together. The recipes differ
in the resolutions they read, in how often they spread, and in what they do to a map before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Final, Literal, TypeAlias, TypeVar

from ... import kernels
from ...kernels import Array, Grid
from ..look.taps import SelfAttention, Taps
from ..look.words import EncodedText
from .base import Head, Reading
from .maps import WORDS_HELP, Words, membership
from .options import HeadOptions, option

Value = TypeVar("Value")
Shares: TypeAlias = Mapping[int, float]
"""What the layers of a stride, in image pixels per cell of a picture of 512², weigh."""


@dataclass(frozen=True)
class RefinedOptions(HeadOptions):
    """Ours by default, at the noise level that two of the three are published with."""

    timestep: int = option(
        99,
        "noise level, an index into the schedule; 99 is the t = 100 of diffsegmenter and iseg, "
        "faseg sees the picture without noise at 0",
        least=0,
    )
    recipe: Literal["mdrt", "diffsegmenter", "faseg", "iseg"] = option(
        "mdrt",
        "mdrt: half of each map spread once by the last of the finest layers, probabilities "
        "compared as they are; or as published, each map scaled to [0, 1]: diffsegmenter spreads "
        "once, faseg twice at every resolution, iseg often by a map of less entropy",
    )
    spreads: int = option(
        0,
        "how often maps are spread by the finest resolution (mdrt, diffsegmenter, iseg) or by each "
        "resolution's (faseg); 0 is the recipe's own: 1, 1, 8 and 2",
        least=0,
        most=100,
    )
    entropy: float = option(
        0.015,
        "of recipe iseg: how much sharper its map is made; 0.015 is VOC's, 0.002 Context's, 0.2 "
        "COCO's",
        least=0,
    )
    words: Words = option("driven", WORDS_HELP)


@dataclass(frozen=True)
class Found:
    """What a recipe is made from, on grids of a square picture.

    Attributes:
        cross: by stride, the attention of the words' tokens, (heads, tokens, r, r) a layer.
        own: self-attention layers by stride.
        membership: (classes, tokens) float32, rows that sum to 1: the mean over a class's tokens.
    """

    cross: Mapping[int, Sequence[Array]]
    own: Mapping[int, Sequence[SelfAttention]]
    membership: Array

    @property
    def side(self) -> int:
        """Of the finest self-attention, L."""
        return math.isqrt(self.own[min(self.own)][0].queries.shape[1])

    def layers(self, stride: int) -> list[kernels.Layer]:
        """Q and K of the self-attention at a stride."""
        return [(layer.queries, layer.keys) for layer in self.own[stride]]

    def of_classes(self, tokens: Array) -> Array:
        """Class maps (K, h, w) of token maps (T, h, w)."""
        flat: Array = self.membership @ tokens.reshape(len(tokens), -1)
        return flat.reshape(-1, *tokens.shape[1:])

    def words(self, stride: int) -> Array:
        """Class maps (K, r, r) of the cross-attention at a stride, the mean over its heads."""
        return self.of_classes(kernels.head_mean(self.cross[stride]))


@dataclass(frozen=True)
class Recipe:
    """A way to make class maps (K, L, L).

    Attributes:
        spreads: how often maps are spread, where it is not asked for otherwise.
        cross: what the cross-attention's strides weigh.
        make: does it, of (what was found, shares of the strides that there are, times, options).
        own: what self-attention's strides weigh; empty where only the finest is read.
        noise: whether the latent is noised to the timestep.
    """

    spreads: int
    cross: Shares
    make: Callable[[Found, Shares, int, RefinedOptions], Array]
    own: Shares = field(default_factory=dict)
    noise: bool = True


def _mean(shares: Shares, of: Callable[[int], Array]) -> Array:
    """What is made of every stride, weighted."""
    return reduce(add, (share * of(stride) for stride, share in shares.items()))


def _mdrt(found: Found, shares: Shares, times: int, options: RefinedOptions) -> Array:
    """Half of each map where the words put it, half spread: probabilities, compared as they are."""
    prior = _mean(shares, lambda stride: kernels.at_side(found.words(stride), found.side))
    last = found.layers(min(found.own))[-1:]
    half: Array = (prior + kernels.spread(last, prior, times)) / 2
    return half


def _diffsegmenter(found: Found, shares: Shares, times: int, options: RefinedOptions) -> Array:
    def scaled(stride: int) -> Array:
        return kernels.minmax(kernels.at_side(found.words(stride), found.side))

    finest = found.layers(min(found.own))
    return kernels.minmax(kernels.spread(finest, _mean(shares, scaled), times))


def _faseg(found: Found, shares: Shares, times: int, options: RefinedOptions) -> Array:
    prior = _mean(shares, lambda s: kernels.at_side(found.words(s), found.side, "nearest"))

    def spread(stride: int) -> Array:
        return kernels.minmax(kernels.spread_below(found.layers(stride), prior, times))

    return kernels.minmax(_mean(present(RECIPES["faseg"].own, found.own), spread))


def _iseg(found: Found, shares: Shares, times: int, options: RefinedOptions) -> Array:
    def tokens(stride: int) -> Array:
        maps = kernels.sum_to_one(kernels.head_mean(found.cross[stride]))
        return kernels.at_side(maps, found.side)

    maps = found.of_classes(kernels.smooth_by_clusters(_mean(shares, tokens)))
    two = found.own[min(found.own)][-1].heads(1, 3)  # 1 and 2, from 0
    operator = kernels.less_entropy(kernels.mean_map([two]), options.entropy)
    flat = kernels.iterate(operator, maps.reshape(len(maps), -1), times)
    return kernels.minmax(flat.reshape(maps.shape))


RECIPES: Final[Mapping[str, Recipe]] = {
    "mdrt": Recipe(1, {64: 0.15, 32: 0.7, 16: 0.15}, _mdrt),
    "diffsegmenter": Recipe(1, {64: 0.3, 32: 0.5, 16: 0.1, 8: 0.1}, _diffsegmenter),
    "faseg": Recipe(
        2, {64: 0.15, 32: 0.7, 16: 0.15}, _faseg, {64: 0.1, 32: 0.1, 16: 0.5, 8: 0.3}, noise=False
    ),
    "iseg": Recipe(8, {32: 0.7, 16: 0.3}, _iseg),
}


def present(shares: Shares, strides: Mapping[int, object]) -> Shares:
    """The shares of the strides that there are, their sum 1; alike where none has one."""
    held = {stride: shares[stride] for stride in strides if shares.get(stride)}
    held = held or dict.fromkeys(strides, 1.0)
    total = sum(held.values())
    return {stride: share / total for stride, share in held.items()}


def read(taps: Taps, options: RefinedOptions, text: EncodedText) -> Reading:
    """The refined map of every name, in [0, 1], of the picture as one square."""
    recipe, manifest = RECIPES[options.recipe], taps.network.manifest
    strides = dict.fromkeys(layer.stride for layer in manifest.attention)
    shares = present(recipe.cross, strides)
    finest = min(layer.stride for layer in manifest.self_attention)
    seen = taps.logits(
        taps.square,
        options.timestep,
        text,
        list(shares),
        probabilities=True,
        noise=recipe.noise,
        late=options.words == "late",
    )
    own = taps.self_attention(
        options.timestep, None if recipe.own else [finest], noise=recipe.noise
    )
    with taps.stage("attention"):
        layers = [layer for layer in manifest.attention if layer.stride in shares]
        found = Found(
            _by_stride([layer.stride for layer in layers], seen),
            _by_stride([layer.stride for layer in own], own),
            membership(taps, text),
        )
        maps = recipe.make(found, shares, options.spreads or recipe.spreads, options)
        grid = Grid(maps.astype("float32"))
    return Reading([grid], grid)


def _by_stride(strides: Sequence[int], values: Sequence[Value]) -> dict[int, list[Value]]:
    pairs = list(zip(strides, values, strict=True))
    return {stride: [value for at, value in pairs if at == stride] for stride in strides}


REFINED = Head(
    "refined",
    "named",
    "class maps improved by self-attention (DiffSegmenter, FA-Seg, iSeg)",
    "named classes whose maps are too coarse; needs self-attention",
    RefinedOptions,
    ("logits", "self_attention"),
    read,
    wordless=lambda options: options.words == "late",
)
