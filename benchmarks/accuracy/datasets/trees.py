"""Data sets on disk: where pictures and masks lie, declared; found, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....runtime.errors import DatasetError, ImageError
from ....runtime.pictures.images import read_image
from .base import Sample
from .raw_values import POTSDAM_COLOURS, UNKNOWN, VOID, ValueTable

BLACK: Final = len(POTSDAM_COLOURS)
"""What Potsdam's eroded boundaries, which are black, are read as."""


@dataclass(frozen=True)
class Variant:
    """One way a data set is laid out.

    Attributes:
        images: glob of the pictures below the base folder, or, with `listed`, a path with {id}.
        masks: path of a picture's mask with {id} and {folder}, the picture's own folder.
        table: raw mask values → class index.
        listed: text file with an id a line, if the split is one.
        suffix: of the picture's name that its id lacks.
        colours: whether masks are Potsdam's colours.
        members: the ids of each split, where its files lie together.
    """

    images: str
    masks: str
    table: ValueTable
    listed: str = ""
    suffix: str = ""
    colours: bool = False
    members: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tree:
    """A data set: its class file, and its variants.

    Attributes:
        classes: name of the class file.
        variants: tried in order; `{split}` stands for the split's name in all their paths.
        bases: folders below the root that may hold it, the root itself first.
        splits: what train and val are called there, if otherwise.
    """

    classes: str
    variants: tuple[Variant, ...]
    bases: tuple[str, ...] = ("",)
    splits: dict[str, str] = field(default_factory=dict)

    def layout(self, split: str) -> str:
        """The paths that are looked for, for an error's line."""
        name = self.splits.get(split, split)
        return " or ".join(
            dict.fromkeys(
                f"{v.images} with {v.masks}" + (f" and {v.listed}" if v.listed else "")
                for v in (_of_split(variant, name) for variant in self.variants)
            )
        )

    def find(self, root: Path, split: str) -> tuple[Variant, list[tuple[str, Path, Path]]]:
        """The variant that is there, and (id, picture, mask) of every picture in it.

        Raises:
            DatasetError: none is.
        """
        if not root.is_dir():
            raise DatasetError(f"{root} is no directory; expected {self.layout(split)}", root=...)
        name = self.splits.get(split, split)
        missing: list[str] = []
        for base in dict.fromkeys(root / folder for folder in self.bases):
            for variant in (_of_split(v, name) for v in self.variants):
                items = _items(base, variant, name)
                if any(mask.is_file() for _, _, mask in items):
                    return variant, items
                if base.is_dir():
                    missing.append(_missing(base, variant, items))
        reasons = "; ".join(dict.fromkeys(missing))
        raise DatasetError(f"{root}: {reasons}; expected {self.layout(split)}")


def _of_split(variant: Variant, split: str) -> Variant:
    paths = {
        name: getattr(variant, name).replace("{split}", split)
        for name in ("images", "masks", "listed")
    }
    return Variant(**(vars(variant) | paths))


def _items(base: Path, variant: Variant, split: str) -> list[tuple[str, Path, Path]]:
    if not variant.listed:
        pictures = sorted(base.glob(variant.images))
        found = [(path.stem.removesuffix(variant.suffix), path) for path in pictures]
    elif (base / variant.listed).is_file():
        lines = (base / variant.listed).read_text(encoding="utf-8").split()
        found = [(name, base / variant.images.format(id=name)) for name in lines]
    else:
        found = []
    if variant.members:
        found = [item for item in found if item[0] in variant.members.get(split, ())]
    return [
        (name, path, base / variant.masks.format(id=name, folder=path.parent.name))
        for name, path in found
    ]


def _missing(base: Path, variant: Variant, items: Sequence[tuple[str, Path, Path]]) -> str:
    if items:
        return f"no mask such as {items[0][2]}"
    return f"no {base / (variant.listed or variant.images)}"


class TreeDataset:
    """A data set on disk; see `base.Dataset`."""

    def __init__(
        self,
        name: str,
        classes: Sequence[tuple[str, ...]],
        variant: Variant,
        items: Sequence[tuple[str, Path, Path]],
    ) -> None:
        self.name, self.classes = name, classes
        self.ids = [item for item, _, _ in items]
        self.missing = [item for item, _, mask in items if not mask.is_file()]
        self._variant, self._items = variant, items

    def __len__(self) -> int:
        return len(self._items)

    def load(self, index: int) -> Sample:
        """Read one picture and its mask.

        Raises:
            DatasetError: either is missing or cannot be read, their sizes differ, or the mask
                holds a value that means nothing.
        """
        name, picture, mask = self._items[index]
        try:
            image = read_image(picture)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        raw = read_mask(mask, self._variant.colours)
        if raw.shape != image.shape[:2]:
            raise DatasetError(
                f"mask {mask} is {_size(raw)} pixels, its picture {picture.name} {_size(image)}; "
                "expected the same"
            )
        return Sample(name, image, to_classes(raw, self._variant.table, mask))


def read_mask(path: Path, colours: bool = False) -> NDArray[np.integer[Any]]:
    """A mask's raw values (H, W): a palette's indices, greys of 8 or 16 bits, or Potsdam's colours
    as their position.

    Raises:
        DatasetError: it is missing, cannot be read, or is of another kind.
    """
    if not path.is_file():
        raise DatasetError(
            f"mask {path} does not exist; check the data set, or skip what is missing",
            on_error="skip",
        )
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # decoders raise whatever they meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"mask {path} cannot be read ({reason})") from error
    if colours:
        return _positions(values, path)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DatasetError(
            f"mask {path} is a picture of mode {mode}, expected a palette or greys of 8 or 16 bits"
        )
    return values


def to_classes(raw: NDArray[np.integer[Any]], table: ValueTable, path: Path) -> NDArray[np.uint8]:
    """Raw values as class indices, 255 where they do not count.

    Raises:
        DatasetError: a value that the table does not know.
    """
    small = np.where((raw < 0) | (raw > VOID), VOID, raw).astype(np.uint8)
    known = (raw >= 0) & (raw <= VOID) | (raw == 0xFFFF)  # 16-bit maps have their own void
    truth: NDArray[np.uint8] = table[small]
    wrong = ~known | (truth == UNKNOWN)
    if wrong.any():
        found = np.unique(raw[wrong])[:5].tolist()
        valid = np.flatnonzero(table != UNKNOWN)
        raise DatasetError(
            f"mask {path} holds {', '.join(map(str, found))}, expected {_ranges(valid)}; "
            "is it of this data set and variant?"
        )
    return truth


def _positions(values: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """The position of each pixel's colour among Potsdam's; `BLACK` for black."""
    if values.ndim != 3 or values.shape[2] < 3 or values.dtype != np.uint8:
        raise DatasetError(f"mask {path} holds no colours, expected Potsdam's label colours")
    bits = (values[..., :3] > 127).astype(np.uint8) @ np.array([4, 2, 1], np.uint8)
    exact = ((values[..., :3] == 0) | (values[..., :3] == 255)).all(axis=2)
    of_bits = np.full(8, UNKNOWN, np.uint8)
    of_bits[0] = BLACK
    for position, colour in enumerate(POTSDAM_COLOURS):
        of_bits[np.array([c // 255 for c in colour]) @ [4, 2, 1]] = position
    found: NDArray[np.uint8] = np.where(exact, of_bits[bits], UNKNOWN)
    if (found == UNKNOWN).any():
        colour = values[..., :3][found == UNKNOWN][0].tolist()
        raise DatasetError(f"mask {path} holds the colour {colour}, none of Potsdam's labels")
    return found


def _ranges(values: NDArray[np.integer[Any]]) -> str:
    """Ascending numbers as "0–18, 255"."""
    breaks = np.flatnonzero(np.diff(values) > 1) + 1
    runs = np.split(values, breaks)
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"
