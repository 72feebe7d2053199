"""Pictures of results: the palette, the label image, the overlay's legend."""

import numpy as np
from PIL import Image

from mdrt.kernels import Grid
from mdrt.runtime.render import label_image, overlay, palette
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
