"""What comes after the network takes memory in proportion to the picture, whatever its shape."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from mdrt.kernels import (
    Affinity,
    Grid,
    Guide,
    Size,
    assign,
    assign_along_edges,
    class_maps,
    edge_grid,
    fine_scores,
    pamr,
    pixel_norms,
    prototypes,
    score_maps,
)

CLASSES = 5


def peak(task: Callable[[], object]) -> int:
    """The most bytes of arrays that a task held at a time."""
    tracemalloc.start()
    try:
        task()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def segment(size: Size, mode: str) -> None:
    """The whole chain for a picture of `size`, features of strides 16 and 32."""
    random = np.random.default_rng(0)
    cells = [tuple(-(-side // stride) for side in size) for stride in (16, 32)]
    features = [Grid(random.random((6, *grid), dtype=np.float32)) for grid in cells]
    logits = [random.random((2, CLASSES, *grid), dtype=np.float32) for grid in cells]
    maps = Grid(class_maps(logits, np.arange(CLASSES), CLASSES))
    averages = prototypes(features, maps, size, "released" if mode == "released" else "paper")
    scores = score_maps(features, averages)
    if mode in ("guided", "pamr"):
        grid = edge_grid(features, size)
        fine = fine_scores(scores, features, grid, maps, 0.5)
        small = random.random((3, *grid), dtype=np.float32)
        if mode == "guided":
            assign_along_edges(fine, Guide(np.zeros((*size, 3), np.uint8), small))
        else:
            assign([Grid(pamr(fine, small))], size)
    else:
        assign(scores, size, pixel_norms(features, size))
    Affinity(features).matvec(np.ones(Affinity(features).n))


@pytest.mark.parametrize("mode", ["paper", "released", "guided", "pamr"])
@pytest.mark.parametrize("turned", [False, True])
def test_it_grows_with_a_side_and_not_with_its_square(mode: str, turned: bool) -> None:
    """Far less than a table of 40,000 by 10,000 cells would take, which is 1.6 GB."""

    def at(side: int) -> int:
        size = (3, side) if turned else (side, 3)
        return peak(lambda: segment(size, mode))

    short, long = at(10_000), at(40_000)
    assert long < 4.5 * short
    assert long < 60e6


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_a_large_picture_takes_little_more_than_its_own_pixels(mode: str) -> None:
    """Norms and confidences are four bytes a pixel each, labels one; sums of squares, of eight,
    are never held."""
    size = (3000, 3000)
    assert peak(lambda: segment(size, mode)) < 14 * size[0] * size[1]
