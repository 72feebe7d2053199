"""Where tiles and blocks lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdrt.runtime.look.tiles import Stitcher
from mdrt.runtime.raster.lattice import Lattice, Window, lead_of, mirrored

SIDES = st.integers(1, 1200)
LEADS = st.integers(0, 31)


@given(st.tuples(SIDES, SIDES), st.tuples(LEADS, LEADS))
def test_blocks_cover_the_lattice_once(size: tuple[int, int], lead: tuple[int, int]) -> None:
    lattice = Lattice(size, 64, 16, lead)
    whole = lattice.whole
    assert whole.common(lattice.raster) == lattice.raster
    covered = np.zeros(whole.size, int)
    for block in lattice.blocks():
        covered[block.slices(whole)] += 1
        assert all(side % lattice.step == 0 for side in (block.top, block.left, *block.size))
    assert (covered == 1).all()


@given(st.tuples(SIDES, SIDES), st.tuples(LEADS, LEADS))
def test_what_is_seen_of_a_cell_is_of_the_same_tiles_in_any_block(
    size: tuple[int, int], lead: tuple[int, int]
) -> None:
    """Every tile shows its place on the lattice: blended, a block shows its own places and so does
    the next, up to their common border, and all tiles over a cell take part."""
    lattice = Lattice(size, 64, 16, lead)
    for block in lattice.blocks():
        seen, canvas = lattice.seen(block), lattice.canvas(block)
        stitched = Stitcher(canvas, 16, 2)
        tiles = Stitcher(canvas, 16, 1)
        for y, x in canvas.origins:
            top, left = y + seen.top, x + seen.left
            assert top % lattice.step == left % lattice.step == 0
            shown = np.broadcast_to(np.array([top, left], float)[:, None, None], (2, 4, 4))
            stitched.add((y, x), shown)
            tiles.add((y, x), np.ones((1, 4, 4)))
        own = block.cells(16).slices(seen.cells(16))
        weights = tiles._weights[own]
        np.testing.assert_allclose(
            weights, weights[0, 0] * 0 + _whole_weights(block)[...], rtol=1e-6
        )


def _whole_weights(block: Window) -> np.ndarray:
    """Of all tiles of an endless lattice: ramps of 4 cells that start at every second."""
    ramp = np.array([0.5, 1.5, 1.5, 0.5])
    along = np.array([ramp[i % 4] + ramp[(i + 2) % 4] for i in range(4)])
    rows, columns = (np.arange(side // 16) % 4 for side in block.size)
    return np.outer(along[rows], along[columns])


@given(st.integers(1, 40), st.integers(-90, 0), st.integers(0, 90))
def test_a_mirrored_picture_is_numpys(side: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(side), (-before, after), mode="symmetric")
    np.testing.assert_array_equal(mirrored(before, side + after, side), expected)


def test_tiles_lie_on_the_ground() -> None:
    """A crop's lattice is the raster's."""
    corner = (-10_600_001.0, 999_999.0)
    lead = lead_of(corner, 192)
    for rows, columns in ((0, 0), (192, 192), (100, 7)):
        crop = lead_of((corner[0] + rows, corner[1] + columns), 192)
        assert crop == ((lead[0] + rows) % 192, (lead[1] + columns) % 192)
