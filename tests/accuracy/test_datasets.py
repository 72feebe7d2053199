"""Every reader on a miniature of its tree, in the real file formats and value ranges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mdrt.benchmarks.accuracy.datasets import NAMES, TREES, open_dataset, raw_values, registry
from mdrt.benchmarks.accuracy.datasets.trees import to_classes
from mdrt.runtime.errors import DatasetError
from mdrt.runtime.look.prompts import read_classes, synonyms

SIZE = (6, 8)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path))).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def mask(path: Path, values: NDArray[np.generic], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([c for i in range(256) for c in (i, 255 - i, i // 2)])
        assert image.mode == "P"
    image.save(path)


def row(*values: int, dtype: str = "uint8") -> NDArray[np.generic]:
    """A mask whose rows hold the values, repeated to its width."""
    return np.resize(np.array(values, dtype), (SIZE[1],))[None].repeat(SIZE[0], axis=0)


def cityscapes(root: Path) -> None:
    for name in ("frankfurt_000000_000294", "lindau_000001_000019"):
        folder = name.split("_")[0]
        picture(root / f"leftImg8bit/val/{folder}/{name}_leftImg8bit.png")
        mask(root / f"gtFine/val/{folder}/{name}_gtFine_labelIds.png", row(0, 7, 8, 11, 33, 4, 255))


def cityscapes_train_ids(root: Path) -> None:
    name = "frankfurt_000000_000294"
    picture(root / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png")
    path = root / f"gtFine/val/frankfurt/{name}_gtFine_labelTrainIds.png"
    mask(path, row(0, 1, 18, 255))


def voc(root: Path) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n2007_000042\n")
    for name in ("2007_000033", "2007_000042", "2007_999999"):
        picture(root / f"JPEGImages/{name}.jpg")
        mask(root / f"SegmentationClass/{name}.png", row(0, 1, 15, 20, 255), palette=True)


def context(root: Path) -> None:
    (root / "ImageSets/SegmentationContext").mkdir(parents=True)
    (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000002")
    picture(root / "JPEGImages/2008_000002.jpg")
    mask(root / "SegmentationClassContext/2008_000002.png", row(0, 1, 59), palette=True)


def coco_train_ids(root: Path) -> None:
    picture(root / "images/val2017/000000000139.jpg")
    mask(root / "annotations/val2017/000000000139_labelTrainIds.png", row(0, 170, 11, 255))


def coco_stuffthing(root: Path) -> None:
    picture(root / "val2017/000000000139.jpg")
    values = row(0, 181, 12, 255, dtype="uint16")
    mask(root / "stuffthingmaps/val2017/000000000139.png", values)  # 16 bits


def potsdam_tiles(root: Path) -> None:
    picture(root / "img_dir/val/2_13_0_0_512_512.png")
    mask(root / "ann_dir/val/2_13_0_0_512_512.png", row(0, 1, 2, 3, 4, 5, 6))


def potsdam_original(root: Path) -> None:
    picture(root / "2_Ortho_RGB/top_potsdam_2_13_RGB.tif")
    picture(root / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif")  # of the training split
    colours = np.array([*raw_values.POTSDAM_COLOURS, (0, 0, 0)], np.uint8)
    values = np.resize(colours, (SIZE[1], 3))[None].repeat(SIZE[0], axis=0)
    for area in ("2_10", "2_13"):
        mask(root / f"5_Labels_all/top_potsdam_{area}_label.tif", values)


def ade(root: Path) -> None:
    picture(root / "images/validation/ADE_val_00000001.jpg")
    mask(root / "annotations/validation/ADE_val_00000001.png", row(0, 1, 150))


V = 255
CASES: list[tuple[str, Callable[[Path], None], str, list[int]]] = [
    ("cityscapes19", cityscapes, "", [V, 0, 1, 2, 18, V, V]),
    ("cityscapes19", cityscapes, "cityscapes", [V, 0, 1, 2, 18, V, V]),
    ("cityscapes19", cityscapes_train_ids, "", [0, 1, 18, V]),
    ("cityscapes27", cityscapes, "", [V, 0, 1, 4, 26, V, V]),
    ("voc20", voc, "VOCdevkit/VOC2012", [V, 0, 14, 19, V]),
    ("voc21", voc, "VOC2012", [0, 1, 15, 20, V]),
    ("context59", context, "VOC2010", [V, 0, 58]),
    ("context60", context, "VOCdevkit/VOC2010", [0, 1, 59]),
    ("cocostuff171", coco_train_ids, "", [0, 170, 11, V]),
    ("cocostuff171", coco_stuffthing, "coco", [0, 170, 11, V]),
    ("cocostuff27", coco_train_ids, "", [9, 24, 8, V]),
    ("cocostuff27", coco_stuffthing, "", [9, 24, 8, V]),
    ("potsdam6", potsdam_tiles, "", [V, 0, 1, 2, 3, 4, 5]),
    ("potsdam6", potsdam_original, "potsdam", [0, 1, 2, 3, 4, 5, V]),
    ("potsdam3", potsdam_tiles, "", [V, 0, 1, 2, 2, 0, 1]),
    ("potsdam3", potsdam_original, "", [0, 1, 2, 2, 0, 1, V]),
    ("ade150", ade, "ADEChallengeData2016", [V, 0, 149]),
]


@pytest.mark.parametrize(("name", "make", "base", "expected"), CASES)
def test_a_tree_is_found_and_read(
    tmp_path: Path, name: str, make: Callable[[Path], None], base: str, expected: list[int]
) -> None:
    make(tmp_path / base)
    dataset = open_dataset(name, tmp_path)
    assert dataset.name == name
    assert len(dataset) == len(dataset.ids) >= 1
    for index in range(len(dataset)):
        sample = dataset.load(index)
        assert sample.id == dataset.ids[index]
        assert sample.image.shape == (*SIZE, 3)
        assert sample.truth.dtype == np.uint8
        np.testing.assert_array_equal(sample.truth, row(*expected))
    assert max(v for v in expected if v != V) < len(dataset.classes)


def test_every_tree_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(TREES)


COUNTS = {
    "cityscapes19": 19, "cityscapes27": 27, "voc20": 20, "voc21": 21, "cocostuff171": 171,
    "cocostuff27": 27, "potsdam6": 6, "potsdam3": 3, "ade150": 150, "context59": 59,
    "context60": 60,
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_class_files(name: str) -> None:
    """As many as the name says, versioned, and no name means two classes."""
    path = registry.class_file(TREES[name].classes)
    assert path.read_text().startswith("# mdrt classes, version 1: ")
    classes = [synonyms(names) for names in read_classes(path)]
    assert len(classes) == COUNTS[name]
    every = [synonym.lower() for names in classes for synonym in names]
    assert len(set(every)) == len(every)
    for variant in TREES[name].variants:
        indices = {int(v) for v in variant.table if v < 254}
        assert indices == set(range(len(classes)))


def test_cocos_tables_agree() -> None:
    """A pixel's class does not depend on which of the two kinds of maps it was read from."""
    fine, of_train = raw_values.COCO_171_STUFFTHING, raw_values.COCO_27_TRAIN
    for raw in range(182):
        if fine[raw] < 254:
            assert of_train[fine[raw]] == raw_values.COCO_27_STUFFTHING[raw]
    assert (fine[[11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]] == raw_values.UNKNOWN).all()


def generic(root: Path) -> Path:
    picture(root / "images/a.png")
    picture(root / "images/b.jpg")
    mask(root / "masks/a.png", row(0, 1, 255), palette=True)
    mask(root / "masks/b.tif", row(2, 0xFFFF, dtype="uint16"))
    (root / "classes.txt").write_text("# mine\nsky\nsea, water\nboat\n")
    return root


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    dataset = open_dataset("folder", generic(tmp_path))
    assert dataset.classes == [("sky",), ("sea", "water"), ("boat",)]
    np.testing.assert_array_equal(dataset.load(0).truth, row(0, 1, 255))
    np.testing.assert_array_equal(dataset.load(1).truth, row(2, 255))


def test_scenes_are_made_from_seeds() -> None:
    held_out, training = open_dataset("scenes"), open_dataset("scenes", split="train")
    assert len(held_out) == 500
    assert not set(held_out.ids) & set(training.ids)
    sample = held_out.load(6)
    assert sample.id == "scene-0000006"
    assert sample.truth.max() < len(held_out.classes) == 14
    np.testing.assert_array_equal(sample.image, held_out.load(6).image)


def test_a_list_restricts_and_orders(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    listed = tmp_path / "list.txt"
    listed.write_text("lindau_000001_000019\n")
    assert open_dataset("cityscapes19", tmp_path, listed=listed).ids == ["lindau_000001_000019"]
    listed.write_text("lindau_000001_000019\nberlin_0\n")
    with pytest.raises(DatasetError, match=r"names 1 of 2 pictures that are not in .* as berlin_0"):
        open_dataset("cityscapes19", tmp_path, listed=listed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "scenes"])
def test_a_wrong_root_tells_the_layout(tmp_path: Path, name: str) -> None:
    expected = "classes.txt" if name == "folder" else TREES[name].variants[0].masks.split("/")[0]
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError) as caught:
            open_dataset(name, root)
        assert expected in str(caught.value)
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="needs a root"):
        open_dataset(name)


def test_scenes_need_the_laboratory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in the wheel."""
    monkeypatch.setattr(registry, "_LABORATORY", "mdrt.benchmarks.nowhere")
    with pytest.raises(DatasetError, match="comes with a checkout"):
        open_dataset("scenes")


def test_pictures_without_any_mask_are_a_wrong_root(tmp_path: Path) -> None:
    picture(tmp_path / "leftImg8bit/val/a/a_0_leftImg8bit.png")
    with pytest.raises(DatasetError, match=r"no mask such as .*a_0_gtFine_labelIds\.png"):
        open_dataset("cityscapes19", tmp_path)


def test_what_is_wrong_with_a_mask_is_named(tmp_path: Path) -> None:
    dataset = open_dataset("folder", generic(tmp_path))
    path = tmp_path / "masks/a.png"

    def message() -> str:
        with pytest.raises(DatasetError) as caught:
            dataset.load(0)
        assert str(path) in str(caught.value) or "a.png" in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    mask(path, row(0, 3, 9))
    assert "holds 3, 9, expected 0–2, 255" in message()
    mask(path, np.zeros((3, 5), np.uint8))
    assert "is 5×3 pixels, its picture a.png 8×6" in message()
    mask(path, np.zeros((*SIZE, 3), np.uint8))
    assert "mode RGB, expected a palette or greys" in message()
    path.write_bytes(b"no picture")
    assert "cannot be read" in message()
    path.unlink()
    assert "does not exist" in message()
    (tmp_path / "images/a.png").write_bytes(b"no picture")
    assert "that Pillow can read" in message()
    assert dataset.load(1).id == "b"  # the others go on


def test_colours_that_are_no_label(tmp_path: Path) -> None:
    potsdam_original(tmp_path)
    path = tmp_path / "5_Labels_all/top_potsdam_2_13_label.tif"
    dataset = open_dataset("potsdam6", tmp_path)
    mask(path, np.full((*SIZE, 3), (255, 0, 255), np.uint8))
    with pytest.raises(DatasetError, match=r"holds the colour \[255, 0, 255\]"):
        dataset.load(0)
    mask(path, np.full((*SIZE, 3), (250, 0, 0), np.uint8))
    with pytest.raises(DatasetError, match=r"holds the colour \[250, 0, 0\]"):
        dataset.load(0)


def test_the_areas_of_potsdams_splits(tmp_path: Path) -> None:
    potsdam_original(tmp_path)
    ids = {split: list(open_dataset("potsdam6", tmp_path, split).ids) for split in ("val", "train")}
    assert ids == {"val": ["top_potsdam_2_13"], "train": ["top_potsdam_2_10"]}
    assert {split: len(areas) for split, areas in raw_values.POTSDAM_MEMBERS.items()} == {
        "train": 24,
        "val": 14,
    }


def test_values_beyond_a_byte_are_unknown(tmp_path: Path) -> None:
    raw = np.array([[0, 300, -1]], np.int32)
    with pytest.raises(DatasetError, match="holds -1, 300"):
        to_classes(raw, raw_values.shifted(3), tmp_path / "mask.png")
