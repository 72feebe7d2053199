"""Class maps against the naive pooling, layer by layer and cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.benchmarks import naive
from mdrt.kernels import absent, class_maps, won_shares

from .strategies import SEEDS, double, relative_error

POOLINGS = ["exp", "softmax", "logit"]


SCALES = st.none() | st.floats(0.5, 2.0)  # at half the size, every cell is still read


def largest(logits):
    """(rows, columns) that hold every layer's grid."""
    return tuple(max(layer.shape[axis] for layer in logits) for axis in (2, 3))


def scaled(logits, scale):
    """A common grid of that many times the largest rows and columns; None for None."""
    return scale and tuple(math.ceil(scale * side) for side in largest(logits))


@st.composite
def attention(draw, scales=(0.1, 3.0, 40.0)):
    """(logits, token_class, classes): layers of different heads and grids, tokens shuffled."""
    random = np.random.default_rng(draw(SEEDS))
    classes = draw(st.integers(1, 6))
    extra = draw(st.integers(0, 8))
    token_class = np.concatenate([np.arange(classes), random.integers(0, classes, extra)])
    random.shuffle(token_class)
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
    scale = draw(st.sampled_from(scales))
    logits = [
        (random.standard_normal((heads, len(token_class), h, w)) * scale).astype(np.float32)
        for heads, h, w in draw(st.lists(shapes, min_size=1, max_size=4))
    ]
    return logits, token_class, classes


def expected(logits, token_class, classes, pooling, grid=None):
    import torch

    tokens = torch.from_numpy(token_class)
    return naive.class_maps([double(layer) for layer in logits], tokens, classes, pooling, grid)


def test_exp_comes_before_the_resize():
    """Between exp(0) = 1 and exp(ln 9) = 9 lies 5; of the resized logits it would be 3."""
    layer = np.log(np.array([1, 9], np.float32)).reshape(1, 1, 1, 2)
    maps = class_maps([layer], np.array([0]), 1, grid=(1, 3))
    np.testing.assert_allclose(maps, [[[1 / 9, 5 / 9, 1]]], rtol=1e-6)


def test_layers_are_added_after_exp_and_resize():
    """Heads of a coarse and of a fine layer weigh alike; the class's own maximum cancels."""
    coarse = np.log(np.array([[4], [2]], np.float32)).reshape(2, 1, 1, 1)  # two heads, one cell
    fine = np.log(np.array([1, 3], np.float32)).reshape(1, 1, 1, 2)
    for shift in (0, 50):
        layers = [coarse + np.float32(shift), fine + np.float32(shift)]
        maps = class_maps(layers, np.array([0]), 1)
        np.testing.assert_allclose(maps, [[[7 / 9, 1]]], rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(case=attention(), scale=SCALES)
@settings(max_examples=40)
def test_pooling_matches_the_naive_one(pooling, case, scale):
    logits, token_class, classes = case
    grid = scaled(logits, scale)
    if pooling == "softmax":
        logits = [np.exp(layer / (1 + np.abs(layer).max())) for layer in logits]
    maps = class_maps(logits, token_class, classes, pooling, grid)
    assert maps.dtype == np.float32
    assert maps.shape[1:] == (grid or largest(logits))
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1, rtol=1e-6)
    # float32 logits of magnitude m are known to m · 2⁻²⁴, and exp passes that on as it is
    magnitude = max(float(np.abs(layer).max()) for layer in logits)
    tolerance = 1e-5 if pooling != "exp" else max(1e-5, magnitude * 2**-21)
    if pooling == "logit" and max(largest(logits)) == 1:
        assert (maps == 1).all()
        return
    raw = expected(logits, token_class, classes, pooling, grid)
    if pooling == "logit":
        means = [layer.mean() for layer in logits]
        spread = 1e-5 * (magnitude + max(map(abs, means)))
        least = _spread(case, grid or largest(logits))
        assert np.abs(maps - raw.numpy()).max() < max(tolerance, spread / least)
    else:
        assert relative_error(maps, raw) < tolerance


def _spread(case, grid):
    """Smallest max − min of the mean logits of a class: what min–max divides by."""
    logits, token_class, classes = case
    import torch

    heads = torch.cat(
        [torch.stack([naive.resize(head, grid) for head in double(layer)]) for layer in logits]
    )
    means = [heads[:, torch.from_numpy(token_class == c)].mean((0, 1)) for c in range(classes)]
    return min(float(mean.max() - mean.min()) for mean in means) or 1.0


@given(case=attention(scales=(1e4, 1e30)))
@settings(max_examples=20)
def test_huge_logits_never_overflow(case):
    with np.errstate(over="raise", invalid="raise"):
        maps = class_maps(*case)
    assert np.isfinite(maps).all()
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1, rtol=1e-6)


def test_a_large_shift_changes_nothing():
    logits = [np.random.default_rng(0).integers(-8, 8, (2, 3, 5, 5)).astype(np.float32)]
    shifted = [layer + np.float32(4096) for layer in logits]
    tokens = np.array([0, 1, 1])
    np.testing.assert_allclose(
        class_maps(shifted, tokens, 2), class_maps(logits, tokens, 2), rtol=1e-6
    )


def test_float16_logits_are_pooled_in_float32():
    logits = [np.full((8, 2, 4, 4), 11.5, np.float16)]
    np.testing.assert_array_equal(class_maps(logits, np.array([0, 1]), 2), 1)


def test_a_constant_logit_map_is_all_ones():
    assert (class_maps([np.zeros((2, 1, 3, 3), np.float32)], np.array([0]), 1, "logit") == 1).all()


def test_errors_name_the_class_and_the_counts():
    logits = [np.zeros((1, 2, 2, 2), np.float32)]
    with pytest.raises(ValueError, match="class 1 has no token"):
        class_maps(logits, np.array([0, 0]), 2)
    with pytest.raises(ValueError, match="token_class holds 5"):
        class_maps(logits, np.array([0, 5]), 2)
    with pytest.raises(ValueError, match=r"logits are \(1, 2, 2, 2\), expected \(heads, 1 tokens"):
        class_maps(logits, np.array([0]), 1)
    with pytest.raises(ValueError, match="pooling 'mean'"):
        class_maps(logits, np.array([0, 0]), 1, "mean")


@given(case=attention())
@settings(max_examples=40)
def test_shares_are_those_of_the_undivided_maps(case):
    logits, token_class, classes = case
    layers = [np.exp(layer / (1 + np.abs(layer).max())) for layer in logits]
    shares = won_shares(layers, token_class, classes)
    assert shares.shape == (classes,)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    if len({layer.shape[2:] for layer in layers}) == 1:
        maps = np.concatenate(layers).astype(np.float64).mean(axis=0)  # (tokens, h, w)
        means = np.stack([maps[token_class == c].mean(axis=0) for c in range(classes)])
        first, second = np.sort(means, axis=0)[-2:] if classes > 1 else (means[0] - 1, means[0])
        if (second - first > 1e-5).all():
            winners = np.bincount(means.argmax(axis=0).ravel(), minlength=classes)
            np.testing.assert_allclose(shares, winners / winners.sum(), atol=1e-6)


def test_absent_classes_win_too_little_and_one_is_left():
    won = np.array([0.5, 0.009, 0.491], np.float32)
    assert absent(won, 0.01).tolist() == [False, True, False]
    assert absent(won, 0.0).tolist() == [False] * 3
    assert absent(won, 0.6).tolist() == [False] * 3  # all would be: then none is
