"""Random shapes and values for the property tests, as float32 grids and as float64 tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt.kernels import Grid

SHARES = st.one_of(st.just(1.0), st.floats(0.2, 1.0))
EXTENTS = st.tuples(SHARES, SHARES)
SIZES = st.tuples(st.integers(1, 37), st.integers(1, 37))
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Levels:
    """The same features for both sides."""

    grids: list[Grid]

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [double(grid.values) for grid in self.grids]

    @property
    def extents(self) -> list[tuple[float, float]]:
        return [grid.extent for grid in self.grids]


def double(values: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float64))


@st.composite
def levels(draw: st.DrawFn, offset: float = 0.0) -> Levels:
    """One to three levels of odd shapes and extents; `offset` makes cosines mostly positive."""
    random = np.random.default_rng(draw(SEEDS))
    shapes = st.tuples(st.integers(1, 24), st.integers(1, 9), st.integers(1, 9))
    grids = [
        Grid(random.normal(offset, 1, shape).astype(np.float32), draw(EXTENTS))
        for shape in draw(st.lists(shapes, min_size=1, max_size=3))
    ]
    return Levels(grids)


@st.composite
def weight_maps(draw: st.DrawFn) -> Grid:
    """Class maps of one to twelve classes, values in (0, 1], each with a maximum of 1."""
    random = np.random.default_rng(draw(SEEDS))
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    values = random.random(shape, dtype=np.float32) + np.float32(0.01)
    return Grid(values / values.max(axis=(1, 2), keepdims=True), draw(EXTENTS))


def relative_error(actual: NDArray[np.float32], expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude."""
    reference = expected.numpy()
    largest = max(float(np.abs(reference).max()), 1e-30)
    return float(np.abs(actual - reference).max()) / largest
