"""Scores along the picture's edges, against a guided filter fitted window by window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.kernels import (
    Grid,
    Guide,
    assign,
    assign_along_edges,
    edge_grid,
    scores_along_edges,
)
from mdrt.kernels.edges import CHUNK, EPSILON, RADIUS

from .strategies import SEEDS

SIDES = st.integers(1, 9)


def guide_of(image: NDArray[np.uint8], factor: int = 1, radius: int = RADIUS) -> Guide:
    """The picture, and its means over cells of factor² pixels."""
    h, w = image.shape[0] // factor, image.shape[1] // factor
    means = image.reshape(h, factor, w, factor, 3).mean((1, 3))
    return Guide(image, (means.transpose(2, 0, 1) / 255).astype(np.float32), radius)


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def naive_filter(
    image: NDArray[np.uint8], scores: NDArray[np.float32], radius: int
) -> NDArray[np.float64]:
    """He, Sun and Tang 2013, Eq. 5 and 8, a least-squares problem a window; p (classes, H, W)."""
    classes, height, width = scores.shape
    guide = image.astype(np.float64) / 255
    a, b = np.zeros((height, width, 3, classes)), np.zeros((height, width, classes))

    def window(y: int, x: int) -> tuple[slice, slice]:
        return (
            slice(max(0, y - radius), y + radius + 1),
            slice(max(0, x - radius), x + radius + 1),
        )

    for y in range(height):
        for x in range(width):
            colours = guide[window(y, x)].reshape(-1, 3)
            known = scores[:, *window(y, x)].reshape(classes, -1).T
            ridge = np.sqrt(EPSILON * len(colours)) * np.eye(3)
            rows = np.block([[colours, np.ones((len(colours), 1))], [ridge, np.zeros((3, 1))]])
            values = np.concatenate([known, np.zeros((3, classes))])
            solution = np.linalg.lstsq(rows, values, rcond=None)[0]
            a[y, x], b[y, x] = solution[:3], solution[3]
    filtered = np.zeros((classes, height, width))
    for y in range(height):
        for x in range(width):
            slopes, offsets = a[window(y, x)].mean((0, 1)), b[window(y, x)].mean((0, 1))
            filtered[:, y, x] = guide[y, x] @ slopes + offsets
    return filtered


@given(SEEDS, SIDES, SIDES, st.integers(1, 4), st.integers(0, 4))
@settings(max_examples=40)
def test_it_is_the_guided_filter_where_the_small_grid_is_the_pictures(
    seed: int, height: int, width: int, classes: int, radius: int
) -> None:
    image = picture(seed, height, width)
    scores = np.random.default_rng(seed).standard_normal((classes, height, width))
    scores = scores.astype(np.float32)
    actual = scores_along_edges(scores, guide_of(image, radius=radius))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, naive_filter(image, scores, radius), atol=2e-3)


@given(SEEDS, st.integers(1, 2 * CHUNK + 3), st.integers(1, 4))
@settings(max_examples=20)
def test_labels_are_the_argmax_of_the_scores(seed: int, classes: int, factor: int) -> None:
    random = np.random.default_rng(seed)
    guide = guide_of(picture(seed, 6 * factor, 5 * factor), factor, 2)
    scores = random.standard_normal((classes, 6, 5)).astype(np.float32)
    full = scores_along_edges(scores, guide)
    found = assign_along_edges(scores, guide)
    assert found.labels.dtype == np.uint8
    chosen = np.take_along_axis(full, found.labels[None].astype(np.int64), axis=0)[0]
    assert (full.max(axis=0) - chosen).max() < 1e-5  # slopes can be tens: scores are as near
    np.testing.assert_allclose(found.confidence, full.max(axis=0), atol=1e-5)
    absent = random.random(classes) < 0.5
    absent[random.integers(classes)] = False
    full[absent] = -np.inf
    some = assign_along_edges(scores, guide, absent)
    assert not absent[np.unique(some.labels)].any()
    chosen = np.take_along_axis(full, some.labels[None].astype(np.int64), axis=0)[0]
    assert (full.max(axis=0) - chosen).max() < 1e-5


@given(SEEDS, st.floats(-3, 3), st.floats(0.1, 5))
@settings(max_examples=20)
def test_what_all_classes_share_changes_nothing(seed: int, shift: float, factor: float) -> None:
    """The filter is linear and keeps constants."""
    guide = guide_of(picture(seed, 12, 10), 2, 1)
    scores = np.random.default_rng(seed).standard_normal((3, 6, 5)).astype(np.float32)
    plain = scores_along_edges(scores, guide)
    moved = scores_along_edges((factor * scores + shift).astype(np.float32), guide)
    np.testing.assert_allclose(moved, factor * plain + shift, atol=1e-3)


def test_a_boundary_moves_to_the_edge() -> None:
    """An edge at column 37, known only to cells of eight pixels and blurred over two of them."""
    image = np.full((64, 64, 3), 60, np.uint8)
    image[:, 37:] = (200, 120, 40)
    truth = np.zeros((64, 64), np.uint8)
    truth[:, 37:] = 1
    cells = truth.reshape(8, 8, 8, 8).mean((1, 3)).astype(np.float32)
    blurred = np.repeat(np.repeat((cells + np.roll(cells, 1, 1)) / 2, 4, 0), 4, 1)
    blurred[:, :4] = 0
    scores = np.stack([1 - blurred, blurred])
    refined = assign_along_edges(scores, guide_of(image, 2))
    np.testing.assert_array_equal(refined.labels, truth)
    plain = assign([Grid(scores)], (64, 64)).labels
    assert (plain != truth).mean() > 0.03


def test_the_first_class_wins_a_tie_and_many_classes_fit() -> None:
    guide = guide_of(picture(0, 8, 8), 2)
    scores = np.zeros((300, 4, 4), np.float32)
    assert (assign_along_edges(scores, guide).labels == 0).all()
    scores[299] = 1
    found = assign_along_edges(scores, guide)
    assert found.labels.dtype == np.uint16
    assert (found.labels == 299).all()


@pytest.mark.parametrize(
    ("shapes", "extent", "size", "expected"),
    [
        ([(8, 8), (32, 32)], (1.0, 1.0), (512, 512), (128, 128)),
        ([(32, 32), (16, 16)], (1.0, 0.5), (512, 256), (128, 64)),
        ([(24, 24)], (1.0, 1.0), (40, 256), (40, 96)),  # no finer than the pixels
        ([(1, 1)], (0.05, 1.0), (9, 9), (1, 4)),
    ],
)
def test_the_small_grid(
    shapes: list[tuple[int, int]],
    extent: tuple[float, float],
    size: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    features = [Grid(np.ones((2, *shape), np.float32), extent) for shape in shapes]
    assert edge_grid(features, size) == expected


def test_without_edges_a_large_region_keeps_its_score() -> None:
    """A plain picture: windows average, and nothing else happens."""
    guide = guide_of(np.full((40, 40, 3), 128, np.uint8), 2, 2)
    scores = np.zeros((2, 20, 20), np.float32)
    scores[1, :, 10:] = 1
    scores[0] = 1 - scores[1]
    filtered = scores_along_edges(scores, guide)
    np.testing.assert_allclose(filtered[1, :, :10], 0, atol=1e-4)
    np.testing.assert_allclose(filtered[1, :, 30:], 1, atol=1e-4)
    np.testing.assert_allclose(filtered.sum(axis=0), 1, atol=1e-4)
