"""Prototypes (Eq. 5), assignment (Eq. 6), norms and confidences against the naive computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mdrt.benchmarks import naive
from mdrt.kernels import (
    Grid,
    assign,
    full_scores,
    never,
    pixel_norms,
    prototypes,
    score_maps,
)
from mdrt.kernels.norms import NORM_FLOOR

from .strategies import SIZES, Levels, double, levels, relative_error, weight_maps

MODES = ["paper", "released"]


@given(levels(), SIZES)
def test_norms(features: Levels, size):
    expected = naive.pixel_norms(features.tensors, size, features.extents)
    assert relative_error(pixel_norms(features.grids, size), expected) < 1e-5


def test_norms_where_neighbours_cancel():
    values = np.ones((4, 1, 2), np.float32)
    values[:, :, 1] = -1
    norms = pixel_norms([Grid(values)], (1, 5))
    np.testing.assert_allclose(norms[0], [2, 1.6, NORM_FLOOR, 1.6, 2], atol=1e-6)
    assert norms.min() > 0


@pytest.mark.parametrize("mode", MODES)
@given(features=levels(), weights=weight_maps(), size=SIZES)
@settings(max_examples=60)
def test_prototypes_and_scores(mode, features: Levels, weights: Grid, size):
    norms = pixel_norms(features.grids, size)
    actual = prototypes(features.grids, weights, size, mode, norms)
    expected = naive.prototypes(
        features.tensors,
        double(weights.values),
        size,
        mode,
        features.extents,
        weights.extent,
    )
    assert [part.dtype for part in actual] == [np.float32] * len(features.grids)
    joined = np.concatenate(actual, axis=1)
    scale = float(naive.pixel_norms(features.tensors, size, features.extents).max())
    unit = scale if mode == "paper" else 1.0
    assert np.abs(joined - expected.numpy()).max() < 1e-5 * unit

    # The same prototypes on both sides, so that only Eq. 6 is compared.
    given = double(joined)
    reference = naive.scores(features.tensors, given, size, mode, features.extents)
    maps = score_maps(features.grids, actual, mode)
    scores = full_scores(maps, size, norms)
    assert relative_error(scores, reference) < 1e-5 * _conditioning(norms)
    result = assign(maps, size, norms)
    assert result.labels.dtype == np.uint8
    assert result.confidence is not None
    np.testing.assert_array_equal(assign(maps, size).labels, result.labels)
    np.testing.assert_allclose(result.confidence, scores.max(axis=0), rtol=1e-6)
    tolerance = 2e-5 * _conditioning(norms) * float(reference.abs().max())
    assert wrong_labels(result.labels, reference, tolerance) == 0


def _conditioning(norms):
    """How much larger than its smallest the largest pixel norm is: dividing by a small one
    magnifies the float32 rounding of features that nearly cancelled."""
    return float(norms.max() / norms.min())


def wrong_labels(labels, reference: torch.Tensor, tolerance: float) -> int:
    """Pixels whose label is not the reference's, other than where their scores tie."""
    chosen = reference.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    return int((reference.max(dim=0).values - chosen > tolerance).sum())


@pytest.mark.parametrize("mode", MODES)
def test_labels_of_a_whole_picture(mode):
    """At least 99.99 % of pixels, ties not excused, prototypes computed on either side."""
    random = np.random.default_rng(4)
    grids = [
        Grid((random.standard_normal(shape) + 0.3).astype(np.float32), (0.9, 1.0))
        for shape in [(96, 8, 8), (64, 16, 16), (32, 32, 32)]
    ]
    features = Levels(grids)
    weights = Grid(random.random((19, 16, 16), dtype=np.float32) ** 8, (0.9, 1.0))
    size = (331, 257)
    averages = prototypes(grids, weights, size, mode)
    result = assign(score_maps(grids, averages, mode), size)
    expected = naive.prototypes(
        features.tensors,
        double(weights.values),
        size,
        mode,
        features.extents,
        weights.extent,
    )
    labels = naive.assign(features.tensors, expected, size, mode, features.extents).numpy()
    assert len(np.unique(labels)) > 10
    assert (result.labels == labels).mean() >= 0.9999


def test_the_first_class_wins_a_tie():
    scores = [Grid(np.ones((5, 2, 2), np.float32))]
    assert (assign(scores, (7, 7)).labels == 0).all()


def test_many_classes_need_sixteen_bits():
    values = np.zeros((300, 1, 1), np.float32)
    values[299] = 1
    labels = assign([Grid(values)], (3, 150)).labels
    assert labels.dtype == np.uint16
    assert (labels == 299).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_class_without_weight_scores_zero(mode):
    grids = [Grid(np.ones((3, 2, 2), np.float32))]
    weights = Grid(np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.float32))
    averages = prototypes(grids, weights, (4, 4), mode)
    assert (averages[0][0] == 0).all()
    scores = full_scores(score_maps(grids, averages, mode), (4, 4), pixel_norms(grids, (4, 4)))
    assert (scores[0] == 0).all()
    np.testing.assert_allclose(scores[1], 1, rtol=1e-6)


def test_features_of_zero_give_finite_results():
    grids = [Grid(np.zeros((3, 2, 2), np.float32))]
    norms = pixel_norms(grids, (4, 4))
    averages = prototypes(grids, Grid(np.ones((2, 2, 2), np.float32)), (4, 4), "released")
    result = assign(score_maps(grids, averages), (4, 4), norms)
    assert (result.labels == 0).all()
    assert (result.confidence == 0).all()


def test_unknown_modes_and_unequal_levels_are_named():
    grids = [Grid(np.ones((3, 2, 2), np.float32))]
    weights = Grid(np.ones((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="mode 'fast'"):
        prototypes(grids, weights, (4, 4), "fast")
    with pytest.raises(ValueError, match="mode 'fast'"):
        score_maps(grids, prototypes(grids, weights, (4, 4)), "fast")
    with pytest.raises(ValueError, match="got 0 levels, expected 1"):
        score_maps(grids, [])


@given(features=levels(), weights=weight_maps(), size=SIZES)
def test_a_class_left_out_wins_nowhere(features: Levels, weights: Grid, size):
    scores = score_maps(features.grids, prototypes(features.grids, weights, size))
    count = len(weights.values)
    out = np.arange(count) == count - 1
    if count == 1:
        return
    labels = assign(never(scores, out), size).labels
    kept = assign([Grid(s.values[:-1], s.extent) for s in scores], size).labels
    np.testing.assert_array_equal(labels, kept)
