"""Scores spread along the picture's colours, against PAMR written down naively."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from published import pamr as published

from mdrt.kernels import pamr
from mdrt.kernels.pamr import CHUNK_CELLS, affinities

from .strategies import SEEDS

Floats = NDArray[np.float32]

SIDES = st.integers(1, 13)
DILATIONS = st.sampled_from([(1,), (2, 3), (1, 2, 4, 8)])


def picture(seed: int, height: int, width: int) -> Floats:
    """(3, height, width) of eight bits a channel, as pictures are."""
    values = np.random.default_rng(seed).integers(0, 256, (3, height, width))
    return (values / 255).astype(np.float32)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def naive(scores: Floats, image: Floats, *how: object) -> NDArray[np.float64]:
    colours = image.transpose(1, 2, 0).astype(np.float64)
    return published.pamr(colours, scores.astype(np.float64), *how)  # type: ignore[arg-type]


@given(SEEDS, SIDES, SIDES, st.integers(1, 4), st.integers(0, 10), DILATIONS)
@settings(max_examples=40)
def test_it_is_the_published_refinement(
    seed: int, height: int, width: int, classes: int, iterations: int, dilations: tuple[int, ...]
) -> None:
    image, scores = picture(seed, height, width), normal(seed, classes, height, width)
    actual = pamr(scores, image, iterations, dilations)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, naive(scores, image, iterations, dilations), atol=1e-5)


@pytest.mark.parametrize("smooth", [False, True])
def test_its_constants_are_the_published_ones(smooth: bool) -> None:
    image, scores = picture(0, 37, 51), normal(1, 3, 37, 51)
    if smooth:  # nearly one colour in most windows, as pictures are
        image = np.round(np.cumsum(image, axis=2) * 5) / np.float32(255)
    before = scores.copy()
    np.testing.assert_allclose(pamr(scores, image), naive(scores, image), atol=1e-5)
    np.testing.assert_array_equal(scores, before)


@given(SEEDS, SIDES, SIDES, DILATIONS)
@settings(max_examples=20)
def test_affinities_of_a_pixel_sum_to_one(
    seed: int, height: int, width: int, dilations: tuple[int, ...]
) -> None:
    weights = affinities(picture(seed, height, width), dilations)
    assert weights.shape == (8 * len(dilations), height, width)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)


@given(SEEDS, SIDES, SIDES)
@settings(max_examples=20)
def test_scores_stay_within_their_range(seed: int, height: int, width: int) -> None:
    scores = normal(seed, 3, height, width)
    refined = pamr(scores, picture(seed, height, width))
    for before, after in zip(scores, refined, strict=True):
        assert before.min() - 1e-5 <= after.min()
        assert after.max() <= before.max() + 1e-5


@given(SEEDS, SIDES, SIDES)
@settings(max_examples=20)
def test_a_mirrored_picture_gives_mirrored_scores(seed: int, height: int, width: int) -> None:
    image, scores = picture(seed, height, width), normal(seed, 2, height, width)
    refined = pamr(scores, image)
    for axis in (1, 2):
        mirrored = pamr(np.flip(scores, axis), np.flip(image, axis))
        np.testing.assert_allclose(np.flip(mirrored, axis), refined, atol=1e-5)


def test_without_colours_neighbours_are_averaged() -> None:
    scores = normal(0, 2, 9, 7)
    once = pamr(scores, np.full((3, 9, 7), 0.3, np.float32), 1, (1,))
    window = scores[:, 3:6, 2:5]
    middle = (window.sum(axis=(1, 2)) - window[:, 1, 1]) / 8
    np.testing.assert_allclose(once[:, 4, 3], middle, atol=1e-6)
    assert np.isfinite(pamr(scores, np.zeros((3, 9, 7), np.float32))).all()


def test_a_boundary_moves_to_the_edge() -> None:
    """An edge at column 17 that the scores have three columns late, and softly."""
    image = np.full((3, 24, 32), 0.2, np.float32)
    image[:, :, 17:] = np.float32([0.8, 0.5, 0.1])[:, None, None]
    ramp = np.clip((np.arange(32) - 16) / 8, 0, 1).astype(np.float32)
    scores = np.stack([np.tile(1 - ramp, (24, 1)), np.tile(ramp, (24, 1))])
    truth = np.tile(np.arange(32) >= 17, (24, 1))
    assert (scores.argmax(axis=0) != truth).any()
    np.testing.assert_array_equal(pamr(scores, image).argmax(axis=0), truth)


def test_many_classes_are_refined_a_chunk_at_a_time() -> None:
    side = 64
    image, classes = picture(0, side, side), CHUNK_CELLS // side**2 + 3
    scores = normal(1, classes, side, side)
    together = pamr(scores, image)
    for label in (0, classes - 4, classes - 3, classes - 1):
        alone = pamr(scores[label : label + 1], image)
        np.testing.assert_array_equal(together[label], alone[0])
