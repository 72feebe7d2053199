"""Scores of names in the space of text embeddings beside MaskCLIP's steps written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import maskclip, vit

from mdrt.kernels.aligned import cosines, smoothed, unlikely

CLASSES, CELLS, WIDTH = 5, (4, 6), 8


def cells(seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((np.prod(CELLS), width))


def scores(seed: int, spread: float = 0.03) -> np.ndarray:
    """Cosines as CLIP's, close together: (patches, K)."""
    return 0.2 + spread * cells(seed, CLASSES)


def as_grid(flat: np.ndarray) -> np.ndarray:
    return flat.T.reshape(-1, *CELLS).astype(np.float32)


def test_scores_are_cosines() -> None:
    features, names = vit.unit(cells(0)), vit.unit(cells(1)[:CLASSES])
    found = cosines(as_grid(features), names.astype(np.float32))
    np.testing.assert_allclose(found, as_grid(features @ names.T), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.99))
def test_a_class_is_unlikely_where_the_published_steps_drop_it(seed: int, least: float) -> None:
    given_scores = scores(seed)
    expected = maskclip.dropped(given_scores, least)
    found = unlikely(as_grid(given_scores), least)
    if expected.all():  # the published code then gives everything to the first class
        assert not found.any()
    else:
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.3, 0.7, 1.0]))
def test_smoothing_is_the_published_one(seed: int, below: float) -> None:
    given_scores, keys = scores(seed), cells(seed + 1)
    found = smoothed(as_grid(given_scores), as_grid(keys), below)
    np.testing.assert_allclose(
        found, as_grid(maskclip.smoothed(given_scores, keys, below)), atol=2e-4
    )


def test_sure_cells_keep_their_own_and_absent_classes_have_none() -> None:
    given_scores = scores(3, spread=0.0)
    given_scores[:, 2] += 0.5  # sure everywhere
    sure = smoothed(as_grid(given_scores), as_grid(cells(4)), 0.9)
    assert sure.argmax(axis=0).tolist() == np.full(CELLS, 2).tolist()
    np.testing.assert_allclose(sure.sum(axis=0), 1, atol=1e-5)
    absent = np.arange(CLASSES) == 2
    left = smoothed(as_grid(given_scores), as_grid(cells(4)), 1.0, absent)
    assert (left[2] == 0).all()


@pytest.mark.parametrize("below", [0.5, 1.0])
def test_a_uniform_picture_stays_finite(below: float) -> None:
    flat = np.full((CLASSES, *CELLS), 0.2, dtype=np.float32)
    found = smoothed(flat, np.zeros((WIDTH, *CELLS), dtype=np.float32), below)
    assert np.isfinite(found).all()
