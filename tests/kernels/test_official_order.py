"""Class maps and labels against the official code's order of steps (`official.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.kernels import Grid, assign, class_maps, prototypes, score_maps

from .official import (
    logits_resized_first,
    official_labels,
    official_maps,
    official_scores,
    softmax_over_tokens,
)
from .strategies import SEEDS

Shape = tuple[int, int]
Floats = NDArray[np.float32]

TOKEN_CLASS = np.array([0, 1, 1, 2, 2, 2, 3, 4, 4], dtype=np.int64)  # one to three a class
CLASSES = 5
OTHER_TOKENS = 4  # what softmax sees beside the classes: start, end, "and"

SIZE = (128, 176)  # 22,528 pixels: 99.9 % leaves 22
CHANNELS = (24, 16, 12)

GRIDS = {
    "square": ((8, 8), (16, 16), (32, 32)),
    "wide": ((8, 11), (16, 22), (32, 44)),
    "odd": ((7, 5), (13, 9), (25, 18)),
}
SPREADS = (0.5, 3.0, 10.0)
TEXTURES = ("smooth", "noise")
POOLINGS = ("exp", "softmax", "logit")
MODES = ("paper", "released")


def maps_of(
    random: np.random.Generator, count: int, shape: Shape, spread: float, texture: str
) -> Floats:
    """(count, h, w) of standard deviation `spread`: white noise, or a few slow waves."""
    if texture == "noise":
        return random.normal(0, spread, (count, *shape)).astype(np.float32)
    y, x = (np.arange(n)[:, None] / n for n in shape)
    down, across, phase = random.uniform(-12, 12, (3, count, 4))[..., None, None]
    waves = np.cos(down * y + across * x.T + phase).sum(axis=1)
    return (spread * waves / waves.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def logits_of(
    seed: int, shapes: tuple[Shape, ...], spread: float, texture: str, heads: tuple[int, ...]
) -> list[Floats]:
    """(heads, tokens, h, w) a layer: the tokens of `TOKEN_CLASS`, then the others."""
    random = np.random.default_rng(seed)
    tokens = len(TOKEN_CLASS) + OTHER_TOKENS
    return [
        maps_of(random, n * tokens, shape, spread, texture).reshape(n, tokens, *shape)
        for n, shape in zip(heads, shapes, strict=True)
    ]


def pooled_inputs(logits: list[Floats], pooling: str) -> list[Floats]:
    """What `class_maps` takes: the class tokens' logits, or their share of all tokens."""
    if pooling == "softmax":
        logits = [softmax_over_tokens(layer).astype(np.float32) for layer in logits]
    return [layer[:, : len(TOKEN_CLASS)] for layer in logits]


def features_of(seed: int, shapes: tuple[Shape, ...]) -> list[Floats]:
    """(d, h, w) a level: regions and noise around a mean, of uneven lengths as a UNet's are."""
    random = np.random.default_rng([seed, 1])
    levels = []
    for channels, shape in zip(CHANNELS, shapes, strict=True):
        values = 0.5 + maps_of(random, channels, shape, 1.0, "smooth")
        values += maps_of(random, channels, shape, 0.3, "noise")
        levels.append(values * np.exp(maps_of(random, 1, shape, 0.7, "smooth")))
    return levels


@dataclass(frozen=True)
class Agreement:
    differing: int
    pixels: int

    @classmethod
    def of(cls, actual: NDArray[np.integer], expected: NDArray[np.integer]) -> Agreement:
        assert actual.shape == expected.shape
        return cls(int((actual != expected).sum()), expected.size)

    def __str__(self) -> str:
        return f"{self.differing} of {self.pixels} pixels differ"

    @property
    def share(self) -> float:
        return 1 - self.differing / self.pixels


def labels_of(features: list[Floats], maps: Floats, mode: str) -> NDArray[np.integer]:
    grids = [Grid(level) for level in features]
    averaged = prototypes(grids, Grid(maps), SIZE, mode)
    return np.asarray(assign(score_maps(grids, averaged, mode), SIZE).labels)


# --- maps, on the largest grid (paper) ------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("shapes", GRIDS.values(), ids=GRIDS)
def test_maps_are_the_official_ones_on_the_largest_grid(shapes, spread, texture, pooling):
    logits = logits_of(0, shapes, spread, texture, heads=(3, 2, 2))
    inputs = pooled_inputs(logits, pooling)
    actual = class_maps(inputs, TOKEN_CLASS, CLASSES, pooling)
    assert actual.dtype == np.float32
    assert actual.shape == (CLASSES, *shapes[-1])
    expected = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-5)


# --- maps, on a given grid (released) -------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(
    ("shapes", "grid"),
    [
        (((8, 8), (16, 16)), (32, 32)),  # the paper's strides at 512²: larger than both
        (((16, 16), (32, 32)), (32, 32)),
        (((16, 16), (64, 64)), (32, 32)),  # one is made smaller: every second pair is averaged
        (((64, 64),), (32, 32)),
        (((8, 8),), (32, 32)),
        (((7, 9), (14, 18)), (28, 36)),
        (((5, 7), (9, 13)), (17, 25)),
    ],
)
def test_maps_are_the_official_ones_on_a_given_grid(shapes, grid, spread, pooling):
    logits = logits_of(1, shapes, spread, "noise", heads=(2,) * len(shapes))
    inputs = pooled_inputs(logits, pooling)
    actual = class_maps(inputs, TOKEN_CLASS, CLASSES, pooling, grid=grid)
    assert actual.shape == (CLASSES, *grid)
    expected = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling, grid)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-5)


def test_the_largest_grid_is_the_default():
    inputs = pooled_inputs(logits_of(2, GRIDS["wide"], 3.0, "noise", heads=(1, 2, 1)), "exp")
    given_one = class_maps(inputs, TOKEN_CLASS, CLASSES, "exp", grid=(32, 44))
    np.testing.assert_array_equal(given_one, class_maps(inputs, TOKEN_CLASS, CLASSES, "exp"))


# --- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("shapes", GRIDS.values(), ids=GRIDS)
def test_paper_labels_agree(shapes, spread, texture, pooling):
    inputs = pooled_inputs(logits_of(3, shapes, spread, texture, heads=(2, 2, 2)), pooling)
    features = features_of(3, shapes)
    actual = labels_of(features, class_maps(inputs, TOKEN_CLASS, CLASSES, pooling), "paper")
    maps = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling)
    agreement = Agreement.of(actual, official_labels(features, maps, SIZE, "paper"))
    assert agreement.share >= 0.999, agreement


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", GRIDS)
def test_released_labels_agree(name, spread, texture, pooling):
    """Attention at the two coarser grids, as the paper chooses, on the grid of the finest."""
    shapes = GRIDS[name]
    inputs = pooled_inputs(logits_of(4, shapes[:2], spread, texture, heads=(4, 2)), pooling)
    features = features_of(4, shapes)
    maps = class_maps(inputs, TOKEN_CLASS, CLASSES, pooling, grid=shapes[2])
    actual = labels_of(features, maps, "released")
    expected = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling, shapes[2])
    agreement = Agreement.of(actual, official_labels(features, expected, SIZE, "released"))
    assert agreement.share >= 0.999, agreement


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shapes", GRIDS.values(), ids=GRIDS)
def test_labels_agree_from_the_same_maps(shapes, mode):
    """Eq. 5 and 6 alone: both sides start from the oracle's maps."""
    logits = pooled_inputs(logits_of(5, shapes, 3.0, "smooth", heads=(2, 2, 2)), "exp")
    maps = official_maps(logits, TOKEN_CLASS, CLASSES, "exp")
    features = features_of(5, shapes)
    actual = labels_of(features, maps.numpy().astype(np.float32), mode)
    agreement = Agreement.of(actual, official_labels(features, maps, SIZE, mode))
    assert agreement.share >= 0.999, agreement


# --- controls: what the tests above can see -------------------------------------------------


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("mode", MODES)
def test_the_wrong_order_would_be_seen(mode, spread, texture):
    """Logits resized before exp: other maps, and other labels on 4 to 33 % of the pixels."""
    shapes = GRIDS["square"]
    logits = pooled_inputs(logits_of(4, shapes[:2], spread, texture, heads=(4, 2)), "exp")
    right = official_maps(logits, TOKEN_CLASS, CLASSES, "exp", shapes[2])
    wrong = logits_resized_first(logits, TOKEN_CLASS, CLASSES, shapes[2])
    assert float((right - wrong).abs().max()) > 0.03
    agreement = agreement_of_maps(features_of(4, shapes), wrong, right, mode)
    assert agreement.share < 0.97, agreement


@pytest.mark.parametrize("mode", MODES)
def test_the_wrong_common_grid_would_be_seen(mode):
    """The larger of the two layers' grids for twice as fine a one: 0.6 to 1 % of labels."""
    shapes = GRIDS["square"]
    logits = pooled_inputs(logits_of(4, shapes[:2], 3.0, "noise", heads=(4, 2)), "exp")
    right = official_maps(logits, TOKEN_CLASS, CLASSES, "exp", shapes[2])
    wrong = official_maps(logits, TOKEN_CLASS, CLASSES, "exp", shapes[1])
    agreement = agreement_of_maps(features_of(4, shapes), wrong, right, mode)
    assert agreement.share < 0.997, agreement


def agreement_of_maps(
    features: list[Floats], wrong: torch.Tensor, right: torch.Tensor, mode: str
) -> Agreement:
    return Agreement.of(
        official_labels(features, wrong, SIZE, mode), official_labels(features, right, SIZE, mode)
    )


def test_on_one_grid_the_order_makes_no_difference():
    logits = pooled_inputs(logits_of(6, ((16, 16), (16, 16)), 3.0, "noise", heads=(2, 2)), "exp")
    right = official_maps(logits, TOKEN_CLASS, CLASSES, "exp")
    wrong = logits_resized_first(logits, TOKEN_CLASS, CLASSES, (16, 16))
    np.testing.assert_allclose(wrong.numpy(), right.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shapes", GRIDS.values(), ids=GRIDS)
def test_the_modes_differ_on_these_features(shapes):
    logits = pooled_inputs(logits_of(5, shapes, 3.0, "smooth", heads=(2, 2, 2)), "exp")
    maps = official_maps(logits, TOKEN_CLASS, CLASSES, "exp")
    features = features_of(5, shapes)
    agreement = Agreement.of(*(official_labels(features, maps, SIZE, mode) for mode in MODES))
    assert agreement.share < 0.9, agreement


# --- properties -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """Layers of one picture, and a common grid at least half as fine as the finest layer."""

    seed: int
    shapes: tuple[Shape, ...]
    heads: tuple[int, ...]
    grid: Shape | None

    def logits(self, spread: float) -> list[Floats]:
        return logits_of(self.seed, self.shapes, spread, "noise", self.heads)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    height, width = draw(st.tuples(st.integers(9, 48), st.integers(9, 48)))

    def at(stride: int) -> Shape:
        return -(-height // stride), -(-width // stride)

    strides = draw(st.lists(st.sampled_from((2, 4, 8)), min_size=1, max_size=4))
    heads = tuple(draw(st.integers(1, 3)) for _ in strides)
    grid = draw(st.sampled_from((None, at(2), at(4))))
    return Attention(draw(SEEDS), tuple(map(at, strides)), heads, grid)


def kernel_maps(inputs: list[Floats], pooling: str, grid: Shape | None) -> Floats:
    return np.asarray(class_maps(inputs, TOKEN_CLASS, CLASSES, pooling, grid=grid))


@given(attentions(), st.floats(0.05, 10), st.sampled_from(POOLINGS))
def test_maps_of_any_layers(attention: Attention, spread: float, pooling: str):
    inputs = pooled_inputs(attention.logits(spread), pooling)
    actual = kernel_maps(inputs, pooling, attention.grid)
    expected = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling, attention.grid).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert actual.min() >= 0
    np.testing.assert_allclose(actual.max(axis=(1, 2)), 1, atol=1e-6)


@given(attentions(), st.floats(20, 1e4))
def test_no_logit_overflows(attention: Attention, reach: float):
    """exp of 1e4 is beyond float64 too: the shift by the class's largest logit is what holds."""
    inputs = [
        np.clip(layer, -1, 1) * np.float32(reach)
        for layer in pooled_inputs(attention.logits(0.5), "exp")
    ]
    actual = kernel_maps(inputs, "exp", attention.grid)
    expected = official_maps(inputs, TOKEN_CLASS, CLASSES, "exp", attention.grid)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("high", [0, 1])
def test_a_layer_far_above_another_decides_alone(high):
    """±1e4 between two layers: the class's largest logit is sought over all of them."""
    logits = pooled_inputs(logits_of(7, ((8, 8), (16, 16)), 1.0, "noise", heads=(2, 2)), "exp")
    offsets = np.float32([-1e4, 1e4] if high else [1e4, -1e4])
    shifted = [layer + offset for layer, offset in zip(logits, offsets, strict=True)]
    actual = kernel_maps(shifted, "exp", (32, 32))
    alone = official_maps([shifted[high]], TOKEN_CLASS, CLASSES, "exp", (32, 32))
    np.testing.assert_allclose(actual, alone.numpy(), rtol=0, atol=1e-5)


@given(attentions(), st.lists(st.integers(-8000, 8000), min_size=CLASSES, max_size=CLASSES))
def test_a_class_does_not_see_its_own_level(attention: Attention, levels: list[int]):
    """exp(x + s) = exp(s) exp(x): a factor. Logits in 64ths, so that float32 holds the sums."""
    raw = pooled_inputs(attention.logits(3.0), "exp")
    logits = [np.round(layer * 64) / np.float32(64) for layer in raw]
    shift = np.float32(levels)[TOKEN_CLASS][:, None, None]
    actual = kernel_maps([layer + shift for layer in logits], "exp", attention.grid)
    expected = kernel_maps(logits, "exp", attention.grid)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(attentions(), st.floats(0.05, 10), st.sampled_from(POOLINGS), st.sampled_from(MODES))
def test_no_pixel_takes_a_class_that_scores_lower(
    attention: Attention, spread: float, pooling: str, mode: str
):
    """At every pixel, not at 99.9 %: the label's official score is the best one, to rounding."""
    inputs = pooled_inputs(attention.logits(spread), pooling)
    features = features_of(attention.seed, GRIDS["odd"])
    labels = labels_of(features, kernel_maps(inputs, pooling, attention.grid), mode)
    maps = official_maps(inputs, TOKEN_CLASS, CLASSES, pooling, attention.grid)
    scores = official_scores(features, maps, SIZE, mode)
    taken = scores.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    assert float((scores.amax(dim=0) - taken).max()) <= 1e-5 * float(scores.abs().max())
