"""Every data set by name: one entry each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from ....runtime.errors import DatasetError
from ....runtime.look.prompts import read_classes, synonyms
from . import raw_values
from .base import Dataset
from .trees import Tree, TreeDataset, Variant

_CLASSES: Final = Path(str(files("mdrt.benchmarks.accuracy"))) / "classes"


def class_file(name: str) -> Path:
    """The versioned class file of a data set."""
    return _CLASSES / f"{name}.txt"


def _cityscapes(classes: str, **tables_by_kind: raw_values.ValueTable) -> Tree:
    variants = [
        Variant(
            "leftImg8bit/{split}/*/*_leftImg8bit.png",
            f"gtFine/{{split}}/{{folder}}/{{id}}_gtFine_{kind}.png",
            table,
            suffix="_leftImg8bit",
        )
        for kind, table in tables_by_kind.items()
    ]
    return Tree(classes, tuple(variants), ("", "cityscapes", "Cityscapes"))


def _voc(classes: str, table: raw_values.ValueTable, sets: str, masks: str) -> Tree:
    variant = Variant(
        "JPEGImages/{id}.jpg",
        masks + "/{id}.png",
        table,
        listed=f"ImageSets/{sets}/{{split}}.txt",
    )
    bases = [f"{parent}{year}" for parent in ("", "VOCdevkit/") for year in ("VOC2012", "VOC2010")]
    return Tree(classes, (variant,), ("", *bases))


def _coco(classes: str, raw: raw_values.ValueTable, train_ids: raw_values.ValueTable) -> Tree:
    variants = [
        Variant(f"{images}{{split}}2017/*.jpg", f"{folder}/{{split}}2017/{{id}}{end}.png", table)
        for images in ("images/", "")
        for folder, end, table in (
            ("annotations", "_labelTrainIds", train_ids),
            ("stuffthingmaps", "", raw),
            ("stuffthingmaps_trainval2017", "", raw),
            ("annotations", "", raw),
        )
    ]
    return Tree(classes, tuple(variants), ("", "coco", "cocostuff", "coco_stuff164k"))


def _potsdam(classes: str, tiles: raw_values.ValueTable, colours: raw_values.ValueTable) -> Tree:
    originals = [
        Variant(
            f"{images}top_potsdam_*_RGB.tif",
            f"{masks}{{id}}_label{end}.tif",
            colours,
            suffix="_RGB",
            colours=True,
            members=raw_values.POTSDAM_MEMBERS,
        )
        for images, masks, end in (
            ("2_Ortho_RGB/", "5_Labels_all/", ""),
            ("2_Ortho_RGB/", "5_Labels_for_participants/", ""),
            ("2_Ortho_RGB/", "5_Labels_all_noBoundary/", "_noBoundary"),
            ("", "", ""),
            ("", "", "_noBoundary"),
        )
    ]
    tiled = Variant("img_dir/{split}/*.png", "ann_dir/{split}/{id}.png", tiles)
    return Tree(classes, (tiled, *originals), ("", "potsdam", "Potsdam"))


TREES: Final[Mapping[str, Tree]] = {
    "cityscapes19": _cityscapes(
        "cityscapes19",
        labelIds=raw_values.CITYSCAPES_19,
        labelTrainIds=raw_values.CITYSCAPES_19_TRAIN,
    ),
    "cityscapes27": _cityscapes("cityscapes27", labelIds=raw_values.CITYSCAPES_27),
    "voc20": _voc("voc20", raw_values.VOC_20, "Segmentation", "SegmentationClass"),
    "voc21": _voc("voc21", raw_values.VOC_21, "Segmentation", "SegmentationClass"),
    "cocostuff171": _coco(
        "cocostuff171", raw_values.COCO_171_STUFFTHING, raw_values.COCO_171_TRAIN
    ),
    "cocostuff27": _coco("cocostuff27", raw_values.COCO_27_STUFFTHING, raw_values.COCO_27_TRAIN),
    "potsdam6": _potsdam("potsdam6", raw_values.POTSDAM_6_TILES, raw_values.POTSDAM_6),
    "potsdam3": _potsdam("potsdam3", raw_values.POTSDAM_3_TILES, raw_values.POTSDAM_3),
    "ade150": Tree(
        "ade150",
        (Variant("images/{split}/*.jpg", "annotations/{split}/{id}.png", raw_values.ADE_150),),
        ("", "ADEChallengeData2016"),
        {"train": "training", "val": "validation"},
    ),
    "context59": _voc(
        "context59", raw_values.CONTEXT_59, "SegmentationContext", "SegmentationClassContext"
    ),
    "context60": _voc(
        "context60", raw_values.CONTEXT_60, "SegmentationContext", "SegmentationClassContext"
    ),
}
"""On disk, below a root of the user's."""

SCENES: Final = "scenes"
_LABORATORY: Final = "mdrt.benchmarks.lab"
"""Not in the wheel; imported where it is there, never needed."""
FOLDER: Final = "folder"
NAMES: Final = (*TREES, SCENES, FOLDER)
MOST_CLASSES: Final = 254  # 255 does not count, 254 marks what is unknown


def open_dataset(
    name: str, root: Path | None = None, split: str = "val", listed: Path | None = None
) -> Dataset:
    """A data set, its root checked.

    Args:
        name: one of `NAMES`.
        root: where it lies; the scenes world has none.
        split: "val" or "train".
        listed: a text file of ids, a line each, to restrict it to.

    Raises:
        DatasetError: unknown, not there, or a listed id is not in it.
    """
    if name == SCENES:
        if listed is not None:
            raise DatasetError(
                "scenes are made from seeds; only data sets on disk have a list", listed=...
            )
        return _scenes(split)
    if name not in NAMES:
        raise DatasetError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    if root is None:
        raise DatasetError(f"{name} needs a root, the folder it lies in", root=...)
    if name == FOLDER:
        dataset = _folder(root, listed)
    else:
        tree = TREES[name]
        variant, items = tree.find(root, split)
        classes = [synonyms(names) for names in read_classes(class_file(tree.classes))]
        dataset = TreeDataset(name, classes, variant, _listed(items, listed, root))
    return dataset


def _scenes(split: str) -> Dataset:
    try:
        module = importlib.import_module(f"{_LABORATORY}.scenes.dataset")
    except ModuleNotFoundError as error:
        if error.name != _LABORATORY:
            raise
        raise DatasetError(
            "the scenes are drawn by mdrt's laboratory, which comes with a checkout; evaluate from "
            "one, or take a data set on disk"
        ) from error
    scenes: Dataset = module.Scenes(split)
    return scenes


def _folder(root: Path, listed: Path | None) -> TreeDataset:
    """`images/`, `masks/` with the same names as PNG or TIFF, and `classes.txt`."""
    layout = "expected images/, masks/ with the same names (.png or .tif) and classes.txt"
    missing = [name for name in ("images", "masks", "classes.txt") if not (root / name).exists()]
    if missing:
        raise DatasetError(f"{root} lacks {', '.join(missing)}; {layout}")
    classes = [synonyms(names) for names in read_classes(root / "classes.txt")]
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise DatasetError(
            f"{root / 'classes.txt'} has {len(classes)} classes, expected 1 to {MOST_CLASSES}"
        )
    pictures = sorted(path for path in (root / "images").iterdir() if path.is_file())
    masks = [_mask_of(root / "masks", picture.stem) for picture in pictures]
    if not any(mask.exists() for mask in masks):
        raise DatasetError(f"{root} has no mask for any of {len(pictures)} pictures; {layout}")
    items = [(p.stem, p, m) for p, m in zip(pictures, masks, strict=True)]
    variant = Variant("images/*", "masks/{id}.png", raw_values.shifted(len(classes)))
    return TreeDataset(FOLDER, classes, variant, _listed(items, listed, root))


def _mask_of(folder: Path, stem: str) -> Path:
    """The mask that is there; the PNG that is missed where none is."""
    paths = [folder / f"{stem}{end}" for end in (".png", ".tif", ".tiff")]
    return next((path for path in paths if path.exists()), paths[0])


def _listed(
    items: list[tuple[str, Path, Path]], listed: Path | None, root: Path
) -> list[tuple[str, Path, Path]]:
    if listed is None:
        return items
    try:
        wanted = listed.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"list {listed} cannot be read: {error}") from error
    known = {item[0]: item for item in items}
    if absent := [name for name in wanted if name not in known]:
        raise DatasetError(
            f"list {listed} names {len(absent)} of {len(wanted)} pictures that are not in "
            f"{root}, as {absent[0]}"
        )
    return [known[name] for name in wanted]
