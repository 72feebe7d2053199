"""The pictures that arguments stand for: files, and folders of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..runtime.errors import MdrtError
from ..runtime.pictures.output import is_result
from ..runtime.writers.folder import is_ours

KINDS: Final = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

UNREAD: Final = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef"}
"""Pictures too, but of kinds that Pillow does not decode."""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        pictures: each with the folder, under that of the results, that its results go to.
        notes: what a user should know of what was passed over.
    """

    pictures: dict[Path, Path]
    notes: list[str]


def find_pictures(arguments: Sequence[str], recursive: bool, out: Path) -> Found:
    """Files as given; a folder stands for the pictures in it, or with `recursive` under it.

    Hidden ones, what is under the folder of the results or of a format, and what is a result are
    passed over.

    Raises:
        MdrtError: a folder holds no picture.
    """
    pictures: dict[Path, Path] = {}
    unread: Counter[str] = Counter()
    for argument in arguments:
        root = Path(argument)
        if not os.path.isdir(argument):  # pathlib's raises for over-long names
            pictures.setdefault(root, Path())
            continue
        files = list(_files(root, recursive, out))
        found = [path for path in files if path.suffix.lower() in KINDS and not is_result(path)]
        unread.update(p.suffix.lower() for p in files if p.suffix.lower() in UNREAD)
        if not found:
            deeper = "" if recursive else "; --recursive looks into its folders too"
            raise MdrtError(f"folder {root} holds no picture ({', '.join(sorted(KINDS))}){deeper}")
        for path in found:
            pictures.setdefault(path, path.parent.relative_to(root))
    notes = [
        f"passed over {count} {kind} file{'s' * (count > 1)}; convert to JPEG or PNG first"
        for kind, count in sorted(unread.items())
    ]
    return Found(pictures, notes)


def _files(root: Path, recursive: bool, out: Path) -> Iterator[Path]:
    """The files of a folder that are not hidden, folder by folder, by name."""
    results = os.path.realpath(out)
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if recursive
            and name[0] != "."
            and os.path.realpath(here / name) != results
            and not is_ours(here / name)
        )
        yield from (here / name for name in sorted(names) if name[0] != ".")
