"""Protocols beside scikit-learn-style formulas written out, and the algebra of adding up."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_erosion
from scipy.optimize import linear_sum_assignment

from mdrt.benchmarks.accuracy.protocols import (
    IGNORE,
    PROTOCOLS,
    Protocol,
    boundary_counts,
    figures,
    interval,
)
from mdrt.benchmarks.metrics import NO_CLASS

CLASSES = 4
TRUTH = arrays.arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 2, 3, IGNORE]))
LABELS = arrays.arrays(np.int64, (6, 5), elements=st.integers(-1, CLASSES - 1))
SEGMENTS = arrays.arrays(np.int64, (6, 5), elements=st.integers(0, 6))
few = settings(max_examples=60, deadline=None, derandomize=True)


def naive_iou(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Intersection over union by sets of pixels over all pictures, void left out."""
    values = []
    for c in range(CLASSES):
        hit = union = 0
        for truth, labels in pairs:
            known = truth != IGNORE
            hit += int(((truth == c) & (labels == c) & known).sum())
            union += int((((truth == c) | (labels == c)) & known).sum())
        values.append(100 * hit / union if union else np.nan)
    return values


@given(st.lists(st.tuples(TRUTH, LABELS), min_size=1, max_size=4))
@few
def test_miou_is_that_of_all_pixels_at_once(pairs) -> None:
    protocol = PROTOCOLS["miou"]
    counts = [protocol.count(truth, labels, CLASSES) for truth, labels in pairs]
    found = figures(protocol.total(counts, CLASSES))
    expected = naive_iou(pairs)
    np.testing.assert_allclose(found.iou, expected)
    if not np.isnan(expected).all():
        np.testing.assert_allclose(found.miou, np.nanmean(expected))
    known = np.concatenate([(truth != IGNORE).ravel() for truth, _ in pairs])
    right = np.concatenate([(truth == labels).ravel() for truth, labels in pairs])
    if known.any():
        np.testing.assert_allclose(found.accuracy, 100 * right[known].mean())


@pytest.mark.parametrize("name", ["hungarian-image", "hungarian-image-positive"])
@given(TRUTH, arrays.arrays(np.int64, (6, 5), elements=st.integers(0, 4)))
@few
def test_matching_finds_the_most_hits(name, truth, segments) -> None:
    counts = PROTOCOLS[name].count(truth, segments, CLASSES)
    known = truth != IGNORE
    best = max(
        int((np.array(chosen)[segments] == truth)[known].sum())
        for chosen in permutations([0, 1, 2, 3, -1])
    )
    assert np.trace(counts) == best
    assert counts.sum() == known.sum()  # a segment without a class is an error, not left out


def published(pairs: list[tuple[np.ndarray, np.ndarray]], by_picture: bool) -> list[float]:
    """IoU by class as google/diffseg (`diffseg/utils.py`, `hungarian_matching`) and PiCIE
    (`commons.py`, `evaluate`) count it, pixel by pixel.

    Both assign every class a label by scipy's or an equal assignment of the whole (classes,
    labels) histogram, which is as wide as the number of classes at least: a class may get a label
    it shares no pixel with, and all that label's pixels are then its false positives. DiffSeg
    assigns anew for every picture, PiCIE once for the sum of all.
    """
    groups = [[pair] for pair in pairs] if by_picture else [pairs]
    hits, extra, missed = (np.zeros(CLASSES) for _ in range(3))
    for group in groups:
        width = max(CLASSES, *(int(segments.max()) + 1 for _, segments in group))
        histogram = np.zeros((CLASSES, width), int)
        for truth, segments in group:
            for name, segment in zip(truth.ravel(), segments.ravel(), strict=True):
                if name < CLASSES:
                    histogram[name, segment] += 1
        for name, segment in zip(*linear_sum_assignment(histogram, maximize=True), strict=True):
            for other in range(CLASSES):
                extra[name] += histogram[other, segment] if other != name else 0
            for other in range(width):
                missed[name] += histogram[name, other] if other != segment else 0
            hits[name] += histogram[name, segment]
    with np.errstate(invalid="ignore"):
        return list(100 * hits / (hits + extra + missed))


@pytest.mark.parametrize(
    ("name", "by_picture"), [("hungarian-image", True), ("hungarian-dataset", False)]
)
@given(st.lists(st.tuples(TRUTH, SEGMENTS), min_size=1, max_size=4))
@few
def test_matching_counts_as_published(name, by_picture, pairs) -> None:
    protocol = PROTOCOLS[name]
    counts = [protocol.count(truth, segments, CLASSES) for truth, segments in pairs]
    found = figures(protocol.total(counts, CLASSES))
    expected = published(pairs, by_picture)
    np.testing.assert_allclose(found.iou, expected)
    if not np.isnan(expected).all():
        np.testing.assert_allclose(found.miou, np.nanmean(expected))


def test_a_segment_too_many_is_a_false_positive_of_some_class() -> None:
    """One class in two segments, and another class elsewhere in the data set."""
    truth = np.array([[0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)
    segments = np.array([[0, 0, 0, 0], [0, 0, 1, 1]])
    other = np.ones((2, 4), np.uint8)
    protocols = [PROTOCOLS[name] for name in ("hungarian-image", "hungarian-image-positive")]
    mean, positive = (
        figures(p.total([p.count(truth, segments, 2), p.count(other, 0 * segments, 2)], 2)).miou
        for p in protocols
    )
    assert positive == pytest.approx((75 + 100) / 2)
    assert mean == pytest.approx((75 + 80) / 2)  # of the other's 8 + 2 pixels 8 are right


@given(st.lists(st.tuples(TRUTH, LABELS), min_size=1, max_size=3))
@few
def test_what_was_given_no_class_takes_none(pairs) -> None:
    """It is no segment that a class could be matched to, and an error whatever the truth."""
    pixels = sum(int((truth != IGNORE).sum()) for truth, _ in pairs)
    void = [np.where(labels < 0, IGNORE, truth).astype(np.uint8) for truth, labels in pairs]
    for name in ("hungarian-image", "hungarian-image-positive", "hungarian-dataset"):
        protocol = PROTOCOLS[name]
        total, without = (
            protocol.total([protocol.count(t, v, CLASSES) for t, v in found], CLASSES)
            for found in (
                pairs,
                [(t, np.maximum(v, 0)) for t, (_, v) in zip(void, pairs, strict=True)],
            )
        )
        assert np.trace(total) == np.trace(without)
        assert total.sum() == pixels


@given(st.lists(st.tuples(TRUTH, SEGMENTS), min_size=1, max_size=3))
@few
def test_matching_by_data_set_renames_once(pairs) -> None:
    protocol = PROTOCOLS["hungarian-dataset"]
    counts = [protocol.count(truth, segments, CLASSES) for truth, segments in pairs]
    total = protocol.total(counts, CLASSES)
    truth = np.concatenate([t for t, _ in pairs])
    segments = np.concatenate([s for _, s in pairs])
    whole = protocol.total([protocol.count(truth, segments, CLASSES)], CLASSES)
    np.testing.assert_array_equal(total, whole)
    assert total.sum() == (truth != IGNORE).sum()


@given(st.lists(st.tuples(TRUTH, LABELS), min_size=1, max_size=3))
@few
def test_the_confusion_matrix_is_scikit_learns(pairs) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    protocol = PROTOCOLS["miou"]
    counts = [protocol.count(truth, labels, CLASSES) for truth, labels in pairs]
    truth, labels = (np.concatenate([p[side].ravel() for p in pairs]) for side in (0, 1))
    known = truth != IGNORE
    if not known.any():
        return
    columns = np.where(labels < 0, CLASSES, labels)
    expected = metrics.confusion_matrix(truth[known], columns[known], labels=range(CLASSES + 1))
    np.testing.assert_array_equal(protocol.total(counts, CLASSES), expected[:CLASSES])
    jaccard = metrics.jaccard_score(
        truth[known], columns[known], labels=range(CLASSES), average=None, zero_division=0
    )
    found = figures(protocol.total(counts, CLASSES)).iou
    np.testing.assert_allclose(np.nan_to_num(found), 100 * jaccard)


@given(TRUTH, LABELS)
@few
def test_iou_as_mmsegmentation_forms_it(truth, labels) -> None:
    """Histograms of the hits, of the labels and of the truth, void left out (its
    `intersect_and_union`)."""
    known = truth != IGNORE
    edges = np.arange(CLASSES + 1) - 0.5
    hit, ours, theirs = (
        np.histogram(values, edges)[0]
        for values in (labels[known & (truth == labels)], labels[known], truth[known])
    )
    union = ours + theirs - hit
    expected = np.where(union > 0, 100 * hit / np.maximum(union, 1), np.nan)
    counts = PROTOCOLS["miou"].count(truth, labels, CLASSES)
    np.testing.assert_allclose(figures(counts).iou, expected)


def test_the_official_grid() -> None:
    truth = np.zeros((100, 90), np.uint8)
    truth[:50] = 1
    counts = PROTOCOLS["miou-256x352"].count(truth, truth.astype(np.int64), CLASSES)
    assert counts.sum() == 256 * 352
    assert np.trace(counts) == counts.sum()
    assert counts[1, 1] == 128 * 352


@given(st.lists(st.tuples(TRUTH, LABELS), min_size=1, max_size=4))
@few
def test_the_mean_over_pictures_is_of_each_pictures_miou(pairs) -> None:
    """As torchmetrics' JaccardIndex (macro) of a picture, added up and divided by their number."""
    protocol = replace(PROTOCOLS["miou-by-image"], grid=None)
    counts = [protocol.count(truth, labels, CLASSES) for truth, labels in pairs]
    by_picture = [naive_iou([pair]) for pair in pairs]
    each = [np.nanmean(values) for values in by_picture if not np.isnan(values).all()]
    found = protocol.score(counts, CLASSES)
    np.testing.assert_allclose(found.miou, np.mean(each) if each else np.nan)
    for c, value in enumerate(found.iou):
        seen = [values[c] for values in by_picture if not np.isnan(values[c])]
        np.testing.assert_allclose(value, np.mean(seen) if seen else np.nan)
    if each:
        low, high = interval(protocol, counts, CLASSES, draws=50)
        assert low <= high


def diffcut(truth: np.ndarray, segments: np.ndarray, background: int) -> int:
    """Hits in a picture as DiffCut's eval_diffcut.py counts it: matched without the background,
    what no class takes made one segment, matched again."""
    segments = segments.copy()
    others = [c for c in range(CLASSES) if c != background]
    overlap = np.array([[((truth == c) & (segments == s)).sum() for s in range(9)] for c in others])
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    taken = {s for c, s in zip(rows, columns, strict=True) if overlap[c, s] > 0}
    segments[~np.isin(segments, list(taken))] = 8
    whole = np.array(
        [[((truth == c) & (segments == s)).sum() for s in range(9)] for c in range(CLASSES)]
    )
    rows, columns = linear_sum_assignment(whole, maximize=True)
    return int(whole[rows, columns].sum())


@given(TRUTH, SEGMENTS)
@few
def test_leftovers_are_the_background_as_diffcut_counts_it(truth, segments) -> None:
    """Hits are; which of several matchings that are as good is taken is up to the solver."""
    protocol = replace(PROTOCOLS["hungarian-image-128"], grid=None)
    found = protocol.count(truth, segments, CLASSES, 2)
    assert np.trace(found) == diffcut(truth, segments, 2)
    assert found.sum() == (truth != IGNORE).sum()
    plain = PROTOCOLS["hungarian-image"].count(truth, segments, CLASSES)
    np.testing.assert_array_equal(protocol.count(truth, segments, CLASSES), plain)


def test_leftovers_by_hand() -> None:
    """Three segments lie in the background, 0; none of them is an error."""
    truth = np.array([[0, 0, 0, 1, 1, 2]], np.uint8)
    segments = np.array([[3, 4, 5, 1, 1, 2]])
    protocol = replace(PROTOCOLS["hungarian-image-128"], grid=None)
    assert figures(protocol.count(truth, segments, 3, 0)).miou == 100
    assert figures(protocol.count(truth, segments, 3)).iou[0] == pytest.approx(100 / 3)


def test_labels_at_128_are_the_nearest() -> None:
    truth = np.arange(256).reshape(1, -1).repeat(256, 0) // 64
    protocol = PROTOCOLS["hungarian-image-128"]
    counts = protocol.count(truth.astype(np.uint8), truth, CLASSES)
    assert counts.sum() == 128 * 128
    assert np.trace(counts) == 128 * 128


@pytest.mark.parametrize("size", [(300, 400), (700, 330), (320, 320), (100, 80)])
def test_crops_are_the_middle(size: tuple[int, int]) -> None:
    protocol = PROTOCOLS["hungarian-image-320"]
    rows = np.linspace(0, 255, size[0]).astype(np.uint8)
    image = np.repeat(np.repeat(rows[:, None, None], size[1], 1), 3, 2)
    truth = np.zeros(size, np.uint8)
    truth[size[0] // 2 :] = 7
    cut, labels = protocol.prepare(image, truth)
    assert cut.shape == (320, 320, 3)
    assert set(np.unique(labels)) == {0, 7}
    assert abs(int((labels == 7).sum()) - 160 * 320) <= 2 * 320
    assert abs(float(cut.mean()) - 127.5) < 3


def test_a_picture_of_void_counts_nothing() -> None:
    truth = np.full((4, 4), IGNORE, np.uint8)
    for protocol in PROTOCOLS.values():
        maps = (len(protocol.sweep.values),) if protocol.sweep else ()
        counts = protocol.count(truth, np.zeros((*maps, 4, 4), np.int64), CLASSES)
        assert counts.sum() == 0
        assert np.isnan(figures(protocol.total([counts], CLASSES)).miou)


def test_a_class_in_neither_map_is_left_out_of_the_mean() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    counts = PROTOCOLS["miou"].count(truth, np.array([[0, 0, 1, 3]]), CLASSES)
    found = figures(counts)
    np.testing.assert_allclose(found.iou, [100, 50, np.nan, 0])
    assert found.miou == pytest.approx(50)


def test_the_interval_holds_the_figure_and_narrows_with_pictures() -> None:
    protocol, matched = PROTOCOLS["miou"], PROTOCOLS["hungarian-dataset"]

    def pictures(protocol: Protocol, count: int) -> list[np.ndarray]:
        random = np.random.default_rng(count)
        parts = []
        for _ in range(count):
            truth = random.integers(0, CLASSES, (20, 20)).astype(np.uint8)
            wrong = random.random((20, 20)) < random.uniform(0, 0.6)
            labels = np.where(wrong, random.integers(0, CLASSES, (20, 20)), truth)
            parts.append(protocol.count(truth, labels, CLASSES))
        return parts

    few_parts, many = pictures(protocol, 8), pictures(protocol, 200)
    spans = []
    for parts in (few_parts, many):
        low, high = interval(protocol, parts, CLASSES)
        assert low < figures(protocol.total(parts, CLASSES)).miou < high
        spans.append(high - low)
    assert spans[1] < spans[0] / 2
    assert interval(protocol, many, CLASSES) == interval(protocol, many, CLASSES)
    same = pictures(matched, 200)
    assert interval(matched, same, CLASSES) == (low, high)  # of labels that are classes already
    assert figures(matched.total(same, CLASSES)).miou == figures(protocol.total(many, CLASSES)).miou


def test_boundaries_by_erosion() -> None:
    """Against scipy's erosion with a square, one class at a time."""
    random = np.random.default_rng(1)
    truth = np.kron(random.integers(0, CLASSES, (5, 6)), np.ones((12, 12))).astype(np.uint8)
    labels = np.roll(truth, 3, axis=1).astype(np.int64)
    labels[20:40, 30:50] = NO_CLASS
    truth[:4, :9] = IGNORE
    found = boundary_counts(truth, labels, CLASSES)
    width = round(0.02 * float(np.hypot(*truth.shape)))
    square = np.ones((2 * width + 1, 2 * width + 1))
    for c in range(CLASSES):
        edges = [m & ~binary_erosion(m, square) for m in (truth == c, labels == c)]
        known = truth != IGNORE
        assert found[0, c] == (edges[0] & edges[1] & known).sum()
        assert found[1, c] == ((edges[0] | edges[1]) & known).sum()
    same = boundary_counts(truth, truth.astype(np.int64), CLASSES)
    np.testing.assert_array_equal(same[0], same[1])
