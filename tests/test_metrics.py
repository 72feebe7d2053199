"""Metrics against their definitions, written out one pixel or pair at a time."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mdrt.benchmarks.metrics import assignment, confusion, iou, match, mean_iou, roc_area

MAPS = arrays.arrays(np.int64, (4, 5), elements=st.integers(0, 3))


@given(MAPS, MAPS)
def test_iou_by_sets(truth, predicted):
    counts = confusion(truth, predicted, 4)
    values = []
    for c in range(4):
        union = ((truth == c) | (predicted == c)).sum()
        expected = 100 * ((truth == c) & (predicted == c)).sum() / union if union else np.nan
        np.testing.assert_allclose(iou(counts)[c], expected)
        values.append(expected)
    np.testing.assert_allclose(mean_iou(counts), np.nanmean(values))


def test_ignored_values_do_not_count():
    assert confusion(np.array([0, 255, 1]), np.array([0, 1, -1]), 2).tolist() == [[1, 0], [0, 0]]


@given(MAPS, MAPS)
def test_matching_is_the_best_of_all_renamings(truth, segments):
    hits = (match(truth, segments, 4) == truth).sum()
    best = max((np.array(p)[segments] == truth).sum() for p in permutations(range(4)))
    assert hits == best


@given(
    arrays.arrays(np.int64, 12, elements=st.integers(0, 4)),
    arrays.arrays(np.bool_, 12),
)
def test_area_by_pairs(score, positive):
    inside, outside = score[positive], score[~positive]
    if not len(inside) or not len(outside):
        assert np.isnan(roc_area(score, positive))
        return
    wins = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert roc_area(score, positive) == pytest.approx(np.mean(wins))


@given(arrays.arrays(np.int64, (3, 5), elements=st.integers(0, 4)))
def test_an_assignment_names_a_label_once(overlap):
    every, positive = assignment(overlap), assignment(overlap, positive=True)
    assert sorted(every[every >= 0]) == [0, 1, 2]  # at least as many labels as classes
    assert np.bincount(positive[positive >= 0], minlength=3).max() <= 1
    for names in (every, positive):
        taken = np.flatnonzero(names >= 0)
        assert overlap[names[taken], taken].sum() == max(
            overlap[range(3), list(chosen)].sum() for chosen in permutations(range(5), 3)
        )
    taken = np.flatnonzero(positive >= 0)
    assert (overlap[positive[taken], taken] > 0).all()
