"""The argmax over long lists: a class is scored only where it can win, and nothing else changes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.benchmarks import naive
from mdrt.kernels import Grid, Size, assign, full_scores, never
from mdrt.kernels.assign import LONG, score_tiles
from mdrt.kernels.rivals import SIDE, _rivals, highest

from .strategies import EXTENTS, SEEDS, double

SIZES = st.tuples(st.integers(1, 3 * SIDE), st.integers(1, 3 * SIDE))
Labels = NDArray[np.int64]
Best = NDArray[np.float32]


def values(kind: str, shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Scores (classes, h, w): waves; of no order; nearly equal; many equal; far apart in size."""
    random = np.random.default_rng(seed)
    found = random.standard_normal(shape)
    if kind == "smooth":
        down, across = (
            np.stack([np.cos(np.pi * i * np.linspace(0, 1, n)) for i in range(3)])
            for n in shape[1:]
        )
        found = np.einsum("cij,ih,jw->chw", random.standard_normal((shape[0], 3, 3)), down, across)
    elif kind == "alike":
        found = 1 + 1e-7 * found
    elif kind == "twins":
        found = found[random.integers(0, max(1, shape[0] // 3), shape[0])]
    elif kind == "uneven":
        found *= 10.0 ** random.integers(-6, 7, (shape[0], 1, 1))
    return found.astype(np.float32)


@st.composite
def long_lists(draw: st.DrawFn) -> list[Grid]:
    """One to three levels of odd shapes and extents."""
    kind = draw(st.sampled_from(["smooth", "noise", "alike", "twins", "uneven"]))
    classes = draw(st.integers(1, 40))
    sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
    return [
        Grid(values(kind, (classes, *side), draw(SEEDS)), draw(EXTENTS))
        for side in draw(st.lists(sides, min_size=1, max_size=3))
    ]


def found_by(scores: Sequence[Grid], size: Size) -> tuple[Labels, Best]:
    """What `highest` finds, every pixel of which it must give exactly once."""
    labels, best = np.full(size, -1), np.empty(size, np.float32)
    for tile, winners, score in highest(scores, size):
        assert (labels[tile] == -1).all()
        labels[tile], best[tile] = winners, score
    assert (labels >= 0).all()
    return labels, best


def of_all(scores: Sequence[Grid], size: Size) -> tuple[Labels, Best]:
    """The same with every class scored everywhere."""
    every = np.arange(len(scores[0].values))
    with patch("mdrt.kernels.rivals._rivals", lambda corners, slack: every):
        return found_by(scores, size)


@given(long_lists(), SIZES)
@settings(max_examples=300)
def test_leaving_classes_out_changes_no_bit(scores: list[Grid], size: Size) -> None:
    labels, best = found_by(scores, size)
    expected, expected_best = of_all(scores, size)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(best, expected_best)


@given(long_lists(), SIZES)
@settings(max_examples=300)
def test_it_is_the_argmax_of_the_resized_scores(scores: list[Grid], size: Size) -> None:
    labels, best = found_by(scores, size)
    expected = sum(naive.resize(double(grid.values), size, grid.extent) for grid in scores)
    expected = expected.numpy()
    rounding = 1e-6 * len(scores) * max(np.abs(grid.values).max() for grid in scores)
    chosen = np.take_along_axis(expected, labels[None], 0)[0]
    assert (expected.max(axis=0) - chosen).max() <= rounding
    assert np.abs(best - expected.max(axis=0)).max() <= rounding


@given(long_lists(), SIZES)
def test_it_is_what_short_lists_get(scores: list[Grid], size: Size) -> None:
    labels, _ = found_by(scores, size)
    for tile, block in score_tiles(scores, size):
        top = np.sort(block, axis=0)[-2:]
        clear = top[-1] - top[0] > 1e-5 * np.abs(block).max() if len(block) > 1 else True
        assert (labels[tile] == block.argmax(axis=0))[clear].all()


@given(SEEDS, st.integers(1, 40), st.sampled_from([(64, 64), (128, 64), (32, 256)]))
def test_the_first_of_equal_scores_wins(seed: int, classes: int, size: Size) -> None:
    """Small whole numbers and cells of 8, 16 and 32 pixels: nothing is rounded, ties abound."""
    random = np.random.default_rng(seed)
    scores = [
        Grid(random.integers(-1, 2, (classes, size[0] // n, size[1] // n)).astype(np.float32))
        for n in (8, 16, 32)
    ]
    exact = sum(naive.resize(double(grid.values), size) for grid in scores).numpy()
    np.testing.assert_array_equal(found_by(scores, size)[0], exact.argmax(axis=0))


@given(SEEDS, SIZES)
def test_of_twins_the_first_wins(seed: int, size: Size) -> None:
    once = [values("noise", (7, n, n), seed + n) for n in (3, 5)]
    scores = [Grid(np.concatenate([x, x, x])) for x in once]
    np.testing.assert_array_equal(
        found_by(scores, size)[0], found_by([Grid(x) for x in once], size)[0]
    )


@given(SEEDS, SIZES)
def test_a_class_left_out_wins_nowhere(seed: int, size: Size) -> None:
    scores = [Grid(values("noise", (12, n, n), seed + n)) for n in (3, 5)]
    out = np.arange(12) % 3 == 0
    kept = [Grid(grid.values[~out]) for grid in scores]
    labels, best = found_by(never(scores, out), size)
    expected, expected_best = found_by(kept, size)
    np.testing.assert_array_equal(labels, np.flatnonzero(~out)[expected])
    np.testing.assert_array_equal(best, expected_best)


def test_where_a_score_is_no_number_the_label_is_the_first() -> None:
    scores = values("noise", (50, 4, 4), 0)
    scores[30, 0, 0] = np.nan
    labels, best = found_by([Grid(scores)], (128, 128))
    assert (labels[:16, :16] == 0).all()
    assert np.isnan(best[:16, :16]).all()
    assert np.isfinite(best[64:, 64:]).all()
    np.testing.assert_array_equal(labels[64:], found_by([Grid(scores[:, 1:])], (96, 128))[0][32:])


def test_few_classes_are_scored_where_scores_are_smooth() -> None:
    scores = [Grid(values("smooth", (300, n, n), n)) for n in (8, 16, 32)]
    with patch("mdrt.kernels.rivals._rivals", wraps=_rivals) as seen:
        found_by(scores, (512, 512))
    counts = [len(_rivals(*call.args)) for call in seen.call_args_list]
    assert np.mean(counts) < 10


@pytest.mark.parametrize("classes", [LONG - 1, LONG, 847])
def test_labels_and_confidences_of_a_long_list(classes: int) -> None:
    scores = [Grid(values("noise", (classes, n, n), n), (0.9, 1.0)) for n in (3, 6)]
    size = (61, 83)
    norms = np.random.default_rng(0).random(size, dtype=np.float32) + np.float32(0.5)
    result = assign(scores, size, norms)
    full = full_scores(scores, size, norms)
    assert result.labels.dtype == (np.uint8 if classes < 256 else np.uint16)
    assert result.confidence is not None
    assert result.confidence.dtype == np.float32
    np.testing.assert_array_equal(result.labels, full.argmax(axis=0))
    np.testing.assert_allclose(result.confidence, full.max(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(assign(scores, size).labels, result.labels)


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_memory_is_of_a_row_of_blocks(kind: str) -> None:
    """Scores of all 847 classes at every pixel would take 888 MB, the low ones take 4.6."""
    scores = [Grid(values(kind, (847, n, n), n)) for n in (8, 16, 32)]
    tracemalloc.start()
    try:
        assign(scores, (512, 512))
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
