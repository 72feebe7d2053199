"""Features with structure: parts of uneven size and place, and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from mdrt.kernels import Grid

CHANNELS = 24
COMMON = 0.4
"""Cosine of what all parts have in common."""


def blobs(
    seed: int, side: int, parts: int, noise: float = 0.2
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (channels, side, side) and the part of each cell (side, side), every part nonempty.

    Every cell has its part's direction and, in all, noise of the length `noise`.
    """
    random = np.random.default_rng(seed)
    cells = np.stack(np.mgrid[:side, :side], axis=-1)
    centres = random.permutation(side * side)[:parts, None] // [side, 1] % side
    truth = ((cells[:, :, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)
    own, _ = np.linalg.qr(random.standard_normal((CHANNELS, parts + 1)))
    directions = np.sqrt(1 - COMMON) * own[:, :parts].T + np.sqrt(COMMON) * own[:, parts]
    values = directions[truth]
    values = values + noise * random.standard_normal(values.shape) / np.sqrt(CHANNELS)
    return values.transpose(2, 0, 1).astype(np.float32), truth


def grid(values: ArrayLike) -> Grid:
    return Grid(np.ascontiguousarray(values, dtype=np.float32))


def agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Share of cells with the same label, up to renaming."""
    both = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(both, (one.ravel(), other.ravel()), 1)
    return float(both[linear_sum_assignment(-both)].sum() / one.size)
