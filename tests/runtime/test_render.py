"""Pictures of results: the palette, the label image, the overlay's legend."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mdrt.runtime.pictures import render
from mdrt.runtime.pictures.palette import VOID, palette
from mdrt.runtime.pictures.render import ALPHA, label_image, overlay, painted, percent


def test_known_words_have_their_natural_colours():
    sky, grass, water = palette(["sky", "grass", "water"]).astype(int)
    assert sky.argmax() == water.argmax() == 2  # blue
    assert sky.sum() > water.sum()  # and light
    assert grass.argmax() == 1  # green


@pytest.mark.parametrize(
    ("name", "word"),
    [("blue sky", "sky"), ("Trees", "tree"), ("tree-merged", "tree"), ("grassy road", "road")],
)
def test_a_name_has_the_colour_of_its_last_known_word(name, word):
    np.testing.assert_array_equal(palette([name]), palette([word]))


def test_like_words_and_unknown_ones_are_told_apart():
    names = ["water", "sea", "grass", "sofa", "piano", "segment 1", "lawn", "road"]
    found = palette(names).astype(int)
    apart = np.abs(found[:, None] - found[None]).sum(axis=2)
    assert apart[~np.eye(len(names), dtype=bool)].min() > 40
    np.testing.assert_array_equal(palette(names), palette(names))
    np.testing.assert_array_equal(palette(["sofa", "water"])[1], palette(["water"])[0])


def test_no_two_of_many_classes_have_one_colour():
    found = palette([f"thing {i}" for i in range(1000)])
    assert len(np.unique(found, axis=0)) == 1000
    assert found.astype(int).sum(axis=1).min() > 150  # nothing near black
    assert len(palette([f"thing {i}" for i in range(5000)])) == 5000


def test_label_image_holds_the_labels(tmp_path):
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    path = tmp_path / "x.png"
    names = ("sky", "grass", "c")
    label_image(labels, names, background="sky").save(path)
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    colours = np.asarray(image.convert("RGB"))
    assert colours[0, 0].tolist() == [0, 0, 0]
    assert colours[0, 1].tolist() == palette(names)[1].tolist()
    assert colours[1, 1].tolist() == list(VOID)


def test_many_classes_are_sixteen_bit(tmp_path):
    labels = np.array([[0, 299]], np.uint16)
    path = tmp_path / "x.png"
    label_image(labels, tuple(map(str, range(300)))).save(path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)


def test_overlay_keeps_the_picture_and_adds_a_legend():
    labels = np.zeros((100, 120), np.uint8)
    labels[:, 60:] = 1
    pixels = np.full((100, 120, 3), 90, np.uint8)
    page = overlay(pixels, labels, ("sky", "grass"), background="sky")
    assert page.width > 120
    left = np.asarray(page)[10:90, 5:55]
    assert (left == 90).all()  # the background class stays uncoloured
    assert (np.asarray(page)[10, 100] != 90).any()


def test_the_legend_is_ordered_by_share(monkeypatch):
    seen = []
    legend = render._legend
    monkeypatch.setattr(
        render, "_legend", lambda size, rows: seen.extend(rows) or legend(size, rows)
    )
    labels = np.repeat(np.array([[1, 0, 2, 2, 2, 0]], np.uint8), 6, axis=0)
    overlay(np.zeros((6, 6, 3), np.uint8), labels, ("a", "b", "c", "d"))
    assert [(name, round(share, 2)) for name, _, share in seen] == [
        ("c", 0.5),
        ("a", 0.33),
        ("b", 0.17),
    ]


def test_the_legend_tells_of_what_is_uncoloured(monkeypatch):
    seen = []
    legend = render._legend
    monkeypatch.setattr(
        render, "_legend", lambda size, rows: seen.extend(rows) or legend(size, rows)
    )
    labels = np.repeat(np.array([[0, 1, 1, 255]], np.uint8), 4, axis=0)
    overlay(np.zeros((4, 4, 3), np.uint8), labels, ("a", "b"), background="b")
    assert [(name, colour is None, share) for name, colour, share in seen] == [
        ("a", False, 0.25),
        ("b", True, 0.5),
        ("none of these", True, 0.25),
    ]


def test_void_is_uncoloured():
    labels = np.full((40, 40), 255, np.uint8)
    pixels = np.full((40, 40, 3), 90, np.uint8)
    assert (np.asarray(painted(pixels, labels, ("sky",))) == 90).all()


def test_outlines_are_dark_beside_light():
    labels = np.zeros((60, 60), np.uint8)
    labels[:, 30:] = 1
    pixels = np.full((60, 60, 3), 128, np.uint8)
    row = np.asarray(painted(pixels, labels, ("sky", "grass")))[2].astype(int).sum(axis=1)
    assert row[29] < row[28] < row[30]
    assert row[30] > row[31]
    assert row[27] == row[28]
    assert row[31] == row[32]


def test_names_stand_in_large_regions_only():
    """Where a name fits, pixels of its region change; where none does, none."""
    labels = np.zeros((200, 200), np.uint8)
    labels[:, 190:] = 1  # too narrow for its name
    pixels = np.full((200, 200, 3), 128, np.uint8)
    page = np.asarray(painted(pixels, labels, ("sky", "elephant"))).astype(int)
    plain = page[0, 0]
    written = np.argwhere((page[:, :188] != plain).any(axis=2))
    assert 40 < len(written) < 4000
    middle = written.mean(axis=0)
    assert 60 < middle[0] < 140
    assert 50 < middle[1] < 140
    assert (page[:, 192:] == page[0, 195]).all()


def test_overlay_of_many_classes_and_tiny_pictures():
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    names = tuple(f"class {i}" for i in range(64))
    page = overlay(np.zeros((8, 8, 3), np.uint8), labels, names)
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


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 700), (900, 1), (1100, 600), (40, 9000), (1500, 2000)]
)
def test_bands_do_not_show(size, monkeypatch):
    """Painted in bands of rows, a picture is what the whole at once would give."""
    pixels, labels = blocks(*size)
    names = ("a", "b", "c")
    paint = palette(names)
    wide = max(1, round(min(size) / 700))
    after, before = np.zeros(size, bool), np.zeros(size, bool)
    for y, x in np.ndindex(*size):
        for step in range(1, wide + 1):
            for row, column in ((y - step, x), (y, x - step)):
                if row >= 0 and column >= 0 and labels[row, column] != labels[y, x]:
                    after[y, x] = before[row, column] = True
    share = np.where(labels == 1, 0, ALPHA)[..., None].astype(np.float32)
    wanted = pixels * (1 - share) + paint[labels].astype(np.float32) * share
    dark = before & ~after
    wanted[dark] *= render._DARK
    wanted[after] += (255 - wanted[after]) * np.float32(render._LIGHT)
    monkeypatch.setattr(render, "_write_names", lambda *_: None)
    found = np.asarray(overlay(pixels, labels, names, background="b"))
    np.testing.assert_array_equal(found[: size[0], : size[1]], wanted.round().astype(np.uint8))
    assert (found[size[0] :, : size[1]] == render.PANEL).all()


def test_a_large_overlay_holds_no_copies_of_the_picture():
    """Extra memory beside the page does not grow with the picture."""
    pixels, labels = blocks(3000, 2000)
    tracemalloc.start()
    try:
        overlay(pixels, labels, ("a", "b", "c"), background="b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24e6  # bytes; one float32 copy of the picture alone would be 72e6
