"""Several views of a picture as one, against the definition in plain loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.kernels import Grid, blended, resize

from .strategies import SEEDS


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / np.linalg.norm(values, axis=0, keepdims=True)


def views_of(seed: int, count: int) -> list[Grid]:
    random = np.random.default_rng(seed)
    shapes = random.integers(2, 9, (count, 2))
    shares = random.uniform(0.5, 1, (count, 2))
    return [
        Grid(random.standard_normal((5, *shape)).astype(np.float32), (share[0], share[1]))
        for shape, share in zip(shapes, shares, strict=True)
    ]


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=40)
def test_directions_and_lengths_are_means(seed: int, count: int) -> None:
    views = views_of(seed, count)
    size = tuple(round(n * share) for n, share in zip(views[0].size, views[0].extent, strict=True))
    directions, lengths = [], []
    for view in views:
        values = view.values.astype(np.float64)
        norm = np.linalg.norm(values, axis=0, keepdims=True)
        directions.append(resize(Grid(values / norm, view.extent), (size[0], size[1])))
        lengths.append(resize(Grid(norm, view.extent), (size[0], size[1])))
    wanted = unit(np.mean(directions, axis=0)) * np.mean(lengths, axis=0)
    found = blended(views)
    assert found.extent == (1.0, 1.0)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, wanted, atol=1e-4)


@given(SEEDS)
@settings(max_examples=10)
def test_a_view_alone_is_itself(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(blended([Grid(values)]).values, values, atol=1e-5)


def test_views_weigh_the_same_however_long_their_vectors_are() -> None:
    here, there = views_of(0, 2)
    plain = blended([here, there]).values
    longer = blended([here, Grid(there.values * 50, there.extent)]).values
    np.testing.assert_allclose(unit(longer), unit(plain), atol=1e-5)


def test_a_vector_without_a_direction_is_left_out() -> None:
    empty = Grid(np.zeros((3, 2, 2), np.float32))
    full = Grid(np.ones((3, 2, 2), np.float32))
    np.testing.assert_allclose(blended([empty, full]).values, 0.5, atol=1e-6)
    assert (blended([empty, empty]).values == 0).all()
