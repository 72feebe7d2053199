"""Where tiles and blocks lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.runtime.raster.lattice import Lattice, lead_of, mirrored

QUICKLY = settings(deadline=None, max_examples=30)
SIDES = st.integers(1, 900)
LEADS = st.integers(0, 31)


@QUICKLY
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


@QUICKLY
@given(st.tuples(SIDES, SIDES), st.tuples(LEADS, LEADS))
def test_all_tiles_over_a_cell_take_part_in_any_block(
    size: tuple[int, int], lead: tuple[int, int]
) -> None:
    """Tiles lie on the lattice, and the weights of those that a block has are those of an endless
    lattice's: ramps of four cells that start at every second."""
    lattice = Lattice(size, 64, 16, lead)
    ramp = np.array([0.5, 1.5, 1.5, 0.5])
    along = np.array([ramp[i % 4] + ramp[(i + 2) % 4] for i in range(4)])
    for block in lattice.blocks():
        seen, canvas = lattice.seen(block), lattice.canvas(block)
        weights = np.zeros(seen.cells(16).size)
        for y, x in canvas.origins:
            assert (y + seen.top) % lattice.step == (x + seen.left) % lattice.step == 0
            weights[y // 16 : y // 16 + 4, x // 16 : x // 16 + 4] += np.outer(ramp, ramp)
        rows, columns = (np.arange(side // 16) % 4 for side in block.size)
        own = weights[block.cells(16).slices(seen.cells(16))]
        np.testing.assert_allclose(own, np.outer(along[rows], along[columns]))


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
