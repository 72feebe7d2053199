"""Metrics against their definitions, written out one pixel or pair at a time."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mdrt.benchmarks.metrics import NO_CLASS, assignment, confusion, iou, match, roc_area

# imported when first needed, which no example should wait for
pytest.importorskip("scipy.optimize")
pytest.importorskip("scipy.stats")

MAPS = arrays.arrays(np.int64, (4, 5), elements=st.integers(0, 3))


@given(MAPS, MAPS)
def test_counts_and_iou_by_sets(truth, predicted):
    truth, predicted = truth - 1, predicted - 1  # some of neither
    counts = confusion(truth, predicted, 3)
    assert counts.shape == (3, 4)
    for c in range(3):
        for label in range(NO_CLASS, 3):
            both = (truth == c) & (predicted == label)
            assert counts[c, label - NO_CLASS] == both.sum()
    known = truth >= 0
    for c, found in enumerate(iou(np.roll(counts, -1, axis=1))):
        union = (((truth == c) | (predicted == c)) & known).sum()
        hit = ((truth == c) & (predicted == c)).sum()
        np.testing.assert_allclose(found, 100 * hit / union if union else np.nan)


def test_labels_beyond_the_classes_have_columns_of_their_own():
    found = confusion(np.array([0, 255, 1]), np.array([4, 1, NO_CLASS]), 2)
    assert found.tolist() == [[0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]


@given(MAPS, MAPS)
def test_matching_is_the_best_of_all_renamings(truth, segments):
    hits = (match(truth, segments, 4) == truth).sum()
    best = max((np.array(p)[segments] == truth).sum() for p in permutations(range(4)))
    assert hits == best


@given(MAPS, MAPS, arrays.arrays(np.bool_, (4, 5)))
def test_what_has_no_class_gets_none(truth, segments, void):
    """And changes nothing of the others' names, as if its pixels were not there."""
    found = match(truth, np.where(void, NO_CLASS, segments), 4)
    assert (found[void] == NO_CLASS).all()
    rest = match(truth[~void], segments[~void], 4) if not void.all() else found[~void]
    np.testing.assert_array_equal(found[~void], rest)


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
