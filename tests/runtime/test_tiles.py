"""The canvas covers the picture; tiles cover the canvas; stitching loses and adds nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.runtime.look.tiles import Stitcher, plan, squash, to_network
from mdrt.runtime.pictures.bands import batches

SIDES = st.integers(1, 1500)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(256, 64), (512, 64), (96, 32)]))
def test_tiles_cover_the_canvas_and_overlap(height, width, network):
    native, multiple = network
    canvas = plan((height, width), native, multiple)
    assert all(side % multiple == 0 for side in canvas.size + canvas.tile)
    assert all(c <= s < c + multiple for c, s in zip(canvas.content, canvas.size, strict=True))
    covered = np.zeros([side // multiple for side in canvas.size], dtype=int)
    for origin in canvas.origins:
        assert all(o % multiple == 0 for o in origin)
        y, x = (o // multiple for o in origin)
        rows, columns = (side // multiple for side in canvas.tile)
        assert y + rows <= covered.shape[0]
        assert x + columns <= covered.shape[1]
        covered[y : y + rows, x : x + columns] += 1
    assert covered.min() >= 1
    assert len(set(canvas.origins)) == len(canvas.origins)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES)
def test_aspect_is_kept(height, width):
    canvas = plan((height, width), 256, 64)
    scale = max(256 / max(height, width), 1)
    wanted = (max(1, round(height * scale)), max(1, round(width * scale)))
    assert canvas.content == wanted
    assert all(0 < share <= 1 for share in canvas.extent)


def test_max_size_reduces_only_large_pictures():
    assert plan((2000, 1000), 256, 64, max_size=500).content == (500, 250)
    assert plan((300, 200), 256, 64, max_size=500).content == (300, 200)
    assert plan((300, 200), 256, 64, max_size=10).content == (256, 171)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([16, 32, 64]), st.integers(0, 9))
def test_stitching_tiles_of_a_map_gives_the_map_back(height, width, stride, seed):
    canvas = plan((height, width), 256, 64)
    rows, columns = (side // stride for side in canvas.size)
    field = np.random.default_rng(seed).standard_normal((2, rows, columns)).astype(np.float32)
    stitcher = Stitcher(canvas, stride, 2)
    for origin in canvas.origins:
        stitcher.add(origin, canvas.crop(field, origin, stride))
    np.testing.assert_allclose(stitcher.result(), field, rtol=1e-5, atol=1e-6)


def test_tiles_that_disagree_pass_smoothly_into_each_other():
    canvas = plan((256, 448), 256, 64)
    assert len(canvas.origins) == 2
    stitcher = Stitcher(canvas, 16, 1)
    for value, origin in enumerate(canvas.origins):
        stitcher.add(origin, np.full((1, 16, 16), value, dtype=np.float32))
    row = stitcher.result()[0, 8]
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 0.35  # four cells of overlap share the step


def test_paint_mirrors_beyond_the_picture():
    image = np.arange(100 * 256 * 3, dtype=np.int64).reshape(100, 256, 3) % 256
    canvas = plan((100, 256), 256, 64)
    painted = canvas.paint(image.astype(np.uint8))
    assert painted.shape == (128, 256, 3)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[100:128], painted[99:71:-1])


def test_the_network_sees_channels_first_from_minus_one_to_one():
    pixels = np.array([[[0, 255, 51]], [[102, 153, 204]]], np.uint8)  # (height, width, colours)
    values = to_network(pixels.transpose(2, 0, 1)[None], (0.5,) * 3, (0.5,) * 3)[0]
    assert values.shape == (3, 2, 1)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values[:, 0, 0], [-1, 1, -0.6], atol=1e-6)
    np.testing.assert_allclose(values[:, 1, 0], [-0.2, 0.2, 0.6], atol=1e-6)


@pytest.mark.parametrize("image", [(100, 256), (30, 700), (256, 256), (600, 300)])
def test_a_canvas_is_at_least_as_large_as_asked(image):
    """An engine of fixed size takes every picture: padded, never enlarged for it."""
    canvas = plan(image, 256, 64, least=256)
    assert canvas.tile == (256, 256)
    assert canvas.content == plan(image, 256, 64).content
    assert canvas.paint(np.ones((*image, 3), np.uint8)).min() == 1


def test_squash_takes_the_whole_picture():
    canvas = squash((100, 700), 256)
    assert canvas.extent == (1, 1)
    assert canvas.paint(np.zeros((100, 700, 3), np.uint8)).shape == (256, 256, 3)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (9, 4), (0, 3)])
def test_batches(count, size):
    groups = list(batches(count, size))
    assert [i for group in groups for i in group] == list(range(count))
    assert all(len(group) <= size for group in groups)
