"""Pictures of results: the palette, the label image, the overlay's legend."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mdrt.kernels import Grid
from mdrt.runtime.pictures.render import ALPHA, label_image, overlay, palette, percent
from mdrt.runtime.segmenter import Segmentation


def result(labels, classes):
    shape = labels.shape
    weights = Grid(np.ones((len(classes), 1, 1), np.float32))
    return Segmentation(labels, classes, np.ones(shape, np.float32), None, weights, {}, {})


def test_palette_is_pascal_vocs():
    assert palette(3).tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert len({tuple(c) for c in palette(255).tolist()}) == 255


def test_label_image_holds_the_labels(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    path = tmp_path / "x.png"
    label_image(result(labels, ("a", "b", "c")), background="a").save(path)
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    assert np.asarray(image.convert("RGB"))[0, 0].tolist() == [0, 0, 0]


def test_many_classes_are_sixteen_bit(tmp_path):
    labels = np.array([[0, 299]], np.uint16)
    path = tmp_path / "x.png"
    label_image(result(labels, tuple(map(str, range(300))))).save(path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)


def test_overlay_keeps_the_picture_and_adds_a_legend():
    labels = np.zeros((100, 120), np.uint8)
    labels[:, 60:] = 1
    pixels = np.full((100, 120, 3), 90, np.uint8)
    page = overlay(pixels, result(labels, ("sky", "grass")), background="sky")
    assert page.width > 120
    left = np.asarray(page)[10:90, 5:55]
    assert (left == 90).all()  # the background class stays uncoloured
    assert (np.asarray(page)[50, 100] != 90).any()


def test_overlay_of_many_classes_and_tiny_pictures():
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    names = tuple(f"class {i}" for i in range(64))
    page = overlay(np.zeros((8, 8, 3), np.uint8), result(labels, names))
    assert page.height == 160


@pytest.mark.parametrize(
    ("share", "text"), [(1e-6, "<1%"), (0.0049, "<1%"), (0.0051, "1%"), (0.994, "99%"), (1, "100%")]
)
def test_what_is_present_is_never_nothing(share, text):
    assert percent(share) == text


def blocks(height, width):
    """A picture, and labels of three classes in blocks whose edges fall on every kind of row."""
    rng = np.random.default_rng(height)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = np.arange(height) // 37, np.arange(width) // 53
    return pixels, ((rows[:, None] + columns) % 3).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 1), (1100, 600), (40, 9000)])
def test_bands_do_not_show(size):
    """Blended in bands of rows, the overlay is what the whole picture at once would give."""
    pixels, labels = blocks(*size)
    paint = palette(3)
    paint[1] = 0
    wanted = pixels * np.float32(1 - ALPHA) + paint[labels].astype(np.float32) * np.float32(ALPHA)
    wanted[labels == 1] = pixels[labels == 1]
    wanted[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    wanted[1:][labels[1:] != labels[:-1]] = 255
    page = overlay(pixels, result(labels, ("a", "b", "c")), background="b")
    assert page.height >= size[0]
    found = np.asarray(page)[: size[0], : size[1]]
    np.testing.assert_array_equal(found, wanted.astype(np.uint8))
    assert (np.asarray(page)[size[0] :, : size[1]] == 255).all()


def test_a_large_overlay_holds_no_copies_of_the_picture():
    """Extra memory beside the page does not grow with the picture."""
    pixels, labels = blocks(3000, 2000)
    large = result(labels, ("a", "b", "c"))
    tracemalloc.start()
    try:
        overlay(pixels, large, background="b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24e6  # bytes; one float32 copy of the picture alone would be 72e6
