"""The cut into k at once beside Falcon's steps written out (`published.falcon`)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import falcon

from mdrt.kernels import SpectralError, multicut
from mdrt.kernels.affinity import cosines, rescaled
from mdrt.kernels.multicut import blocks, merged, proximal_cut, sharpened

from .blobs import agreement, blobs, grid
from .strategies import SEEDS


@given(SEEDS, st.integers(8, 16), st.integers(1, 8), st.floats(0.1, 1.5), st.booleans())
@settings(max_examples=40)
def test_steps_are_those_written_out(seed, side, k, noise, own):
    """From anywhere, in float64: of random segments, rounding decides where they go."""
    alike, _ = cosines([grid(blobs(seed, side, 4, noise)[0])])
    weights = (sharpened(alike) if own else rescaled(alike, 10.0)).astype(np.float64)
    start = np.random.default_rng(seed).integers(0, k, len(weights))
    expected, objective = falcon.proximal_cut(weights, start, k)
    labels, values = proximal_cut(weights, start, k)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(values, objective, rtol=1e-9)


@given(SEEDS, st.integers(8, 16), st.integers(2, 6), st.floats(0.1, 0.5))
@settings(max_examples=25)
def test_so_are_they_from_blocks_in_float32(seed, side, parts, noise):
    weights = sharpened(cosines([grid(blobs(seed, side, parts, noise)[0])])[0])
    start = blocks((side, side), parts)
    k = int(start.max()) + 1
    expected, _ = falcon.proximal_cut(weights.astype(np.float64), start, k)
    assert agreement(proximal_cut(weights, start, k)[0], expected) >= 0.999


@given(SEEDS, st.integers(2, 6), st.floats(0, 2))
@settings(max_examples=25)
def test_no_step_lowers_what_is_to_be_large(seed, k, noise):
    weights = sharpened(cosines([grid(blobs(seed, 12, 4, noise)[0])])[0])
    start = np.random.default_rng(seed).integers(0, k, len(weights))
    labels, values = proximal_cut(weights, start, k)
    assert (np.diff(values) >= 0).all()
    exact = weights.astype(np.float64)
    assert values[0] == pytest.approx(falcon.normalised_association(exact, start, k), rel=1e-5)
    assert values[-1] == pytest.approx(falcon.normalised_association(exact, labels, k), rel=1e-5)


@given(SEEDS, st.integers(8, 16), st.integers(2, 6))
@settings(max_examples=25)
def test_parts_are_found_whether_or_not_it_is_said_how_many(seed, side, parts):
    values, truth = blobs(seed, side, parts)
    labels, k = multicut([grid(values)], parts)
    assert k == parts
    assert agreement(labels, truth) >= 0.999
    assert labels[0, 0] == 0
    if np.bincount(truth.ravel()).min() > 6:  # a smaller one may be taken for an edge
        found, count = multicut([grid(values)])
        assert count == parts
        np.testing.assert_array_equal(found, labels)
    assert multicut([grid(values)], max_segments=1)[1] == 1


@given(SEEDS, st.integers(8, 13), st.integers(2, 5), st.floats(0.05, 0.5))
@settings(max_examples=20)
def test_a_mirrored_picture_has_mirrored_segments(seed, side, parts, noise):
    values, _ = blobs(seed, side, parts, noise)
    labels, k = multicut([grid(values)], parts)
    for turned, back in (
        (values[:, :, ::-1], labels[:, ::-1]),
        (values[:, ::-1], labels[::-1]),
        (values.transpose(0, 2, 1), labels.T),
    ):
        found, count = multicut([grid(turned)], parts)
        assert count == k
        assert agreement(found, back) == 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=60)
def test_blocks_are_the_same_from_every_side(rows, columns, k):
    labels = blocks((rows, columns), k).reshape(rows, columns)
    count = labels.max() + 1
    assert len(np.unique(labels)) == count
    assert count >= min(k, rows, columns)
    for turned in (labels[::-1], labels[:, ::-1]):
        assert agreement(turned, labels) == 1
    assert agreement(blocks((columns, rows), k).reshape(columns, rows).T, labels) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_merging_unites_what_was_one(k):
    """Of five parts, each in two halves, halves are put together first."""
    truth = np.arange(40)[None].repeat(2, axis=0).ravel() // 8
    own = np.sqrt(0.7) * np.eye(5, 6) + np.sqrt(0.3) * np.eye(1, 6, 5)
    weights = (own @ own.T)[truth][:, truth].astype(np.float32) ** 4
    labels = merged(weights, np.arange(80) % 40 // 4, k)
    assert labels.max() + 1 == k
    for part in range(5):
        assert len(np.unique(labels[truth == part])) == 1
    np.testing.assert_array_equal(merged(weights, np.arange(80) % 40 // 4, 8), truth)


def test_the_sharpened_affinity_is_that_of_the_features():
    values, _ = blobs(0, 9, 3)
    unit = values.reshape(len(values), -1).T.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit -= 0.5 * unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.maximum(unit @ unit.T, 0) ** 3
    np.testing.assert_allclose(sharpened(cosines([grid(values)])[0], 0.5, 3.0), expected, atol=1e-5)


def test_constant_and_small_maps():
    for segments in ("auto", 1, 4):
        for values in (np.full((5, 6, 7), 3), np.ones((5, 1, 1))):
            labels, k = multicut([grid(values)], segments)
            assert k == 1
            assert labels.shape == values.shape[1:]
            assert not labels.any()
        assert multicut([grid(np.zeros((5, 4, 4)))], segments)[1] <= 4


def test_no_more_segments_than_kinds():
    values = np.eye(3)[np.arange(9)[None].repeat(4, axis=0) // 3].transpose(2, 0, 1)
    labels, k = multicut([grid(values)], 7)
    assert k == 3
    np.testing.assert_array_equal(labels[0], np.arange(9) // 3)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="at least 1"):
        multicut([grid(np.ones((2, 3, 3)))], 0)
    with pytest.raises(SpectralError, match="NaN"):
        multicut([grid(np.full((2, 3, 3), np.nan))], 2)
