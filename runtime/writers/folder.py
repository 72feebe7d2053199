"""The folder of one format: its files, and what is remembered of each picture until the run ends.

`pictures.jsonl` has a line for each picture that is whole. The files of the run, as COCO's one
JSON, are made of it at the end, line by line: so memory does not grow with the pictures, and a run
that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from ..disk.atomic import recover, write_atomically, write_together
from ..errors import OutputError
from ..pictures.output import output_folder
from ..segmentation import Segmentation
from .base import Format, Line, Picture, Run, dumps, json_object

RUN: Final = "mdrt.json"
"""What made the files of a folder; also says that they are mdrt's."""

JOURNAL: Final = "pictures.jsonl"

SCHEMA: Final = 1
"""Version of the layout of both."""


def is_ours(folder: Path) -> bool:
    """Whether a folder is one that mdrt wrote a format into."""
    return _read_run(folder) is not None


def check_folder(folder: Path, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """See that a format's folder is new, empty or mdrt's own, and holds no input. What runs that
    were killed had begun there is ended first.

    Raises:
        OutputError: it is not; `overwrite` allows files of other origin.
    """
    for place, _, _ in os.walk(folder):
        recover(Path(place))
    root = os.path.realpath(folder)
    for path in inputs:
        if Path(os.path.realpath(path)).is_relative_to(root):
            raise OutputError(
                f"results in {folder} could replace the input {path}; choose another folder",
                out=...,
            )
    if overwrite or is_ours(folder):
        return
    with suppress(FileNotFoundError, NotADirectoryError):
        if any(folder.iterdir()):
            raise OutputError(
                f"folder {folder} is not empty and no earlier result of mdrt; "
                "choose another folder, or allow it to be overwritten",
                out=...,
                overwrite=True,
            )


class Folder:
    """A format's folder while a run writes into it. Used by one thread at a time.

    Attributes:
        path: of it.
    """

    def __init__(self, path: Path, kind: Format, run: Run, resume: bool = False) -> None:
        """Begin a run, or go on with one; what an earlier run of another kind wrote is removed.

        Args:
            path: where; made if it is not there. See `check_folder`.
            kind: the format.
            run: what all pictures have in common.
            resume: keep the pictures that the same run wrote already.

        Raises:
            OutputError: the folder cannot be written to, or the format cannot hold the run.
        """
        kind.check(run)
        self.path, self.kind, self.run = path, kind, run
        self._known: dict[str, tuple[int, int]] = {}  # key: place of its line, when it was written
        self._stale: set[int] = set()  # places of lines that later ones replace
        self._classes, self._some = 0, False
        with output_folder(path):
            before = _read_run(path)
            if before is not None and resume and run.made(before):
                self._recall()
            elif before is not None:
                self._clear()
            self._tell()
            try:
                self._journal: BinaryIO = (path / JOURNAL).open("ab")
            except OSError as error:
                raise _refused(path / JOURNAL, error) from error

    def holds(self, picture: Picture) -> bool:
        """Whether a picture is there, and has not changed since."""
        known = self._known.get(picture.key)
        if known is None or picture.source is None:
            return False
        place, written = known
        line = self._line_at(place)
        try:
            fresh = written >= picture.source.stat().st_mtime_ns
        except OSError:
            return False
        files = (self.path / name for name in line["files"])
        return fresh and line["file"] == picture.file and all(map(os.path.isfile, files))

    def write(self, result: Segmentation, picture: Picture) -> None:
        """Write one picture's files, then its line.

        Raises:
            OutputError: the disk refused.
        """
        piece = self.kind.piece(result, picture, self.run)
        folders: dict[Path, dict[Path, Callable[[BinaryIO], object]]] = {}
        for name, write in piece.files.items():
            path = self.path / name
            folders.setdefault(path.parent, {})[path] = write
        for writes in folders.values():
            _make_folders(writes)
            write_together(writes)
        line = {
            "key": picture.key,
            "file": picture.file,
            "size": list(result.labels.shape),
            "classes": len(result.classes),
            "files": list(piece.files),
            "written": time.time_ns(),
            "entry": piece.entry,
        }
        place = self._journal.tell()
        try:
            self._journal.write(dumps(line).encode() + b"\n")
            self._journal.flush()
        except OSError as error:
            self._journal.truncate(place)
            raise _refused(self.path / JOURNAL, error) from error
        self._some = True
        self._classes = max(self._classes, len(result.classes))
        if picture.key in self._known:
            self._stale.add(self._known.pop(picture.key)[0])

    def close(self) -> None:
        """Write the files of the run, each whole or not at all; a run without pictures leaves none.

        Raises:
            OutputError: the disk refused.
        """
        self._journal.close()
        if not (self._some or self._known):
            self._clear()
            self._remove(RUN)
            with suppress(OSError):
                self.path.rmdir()
            return
        for name, text in self.kind.index(_Lines(self), self.run, self._classes).items():
            _make_folders([self.path / name])
            write_atomically(self.path / name, partial(_write, text))
        self._tell()

    def _tell(self) -> None:
        """Write what made the run."""
        about = {"schema": SCHEMA} | self.run.describe(self._classes)
        write_atomically(self.path / RUN, partial(_write, json_object(about)))

    def _recall(self) -> None:
        """Find the lines of the run so far, and cut off one that a kill left half-written."""
        place = 0
        for place, line in _lines(self.path / JOURNAL):
            if line["key"] in self._known:
                self._stale.add(self._known[line["key"]][0])
            self._known[line["key"]] = place, line["written"]
            self._classes = max(self._classes, line["classes"])
        with suppress(FileNotFoundError):
            os.truncate(self.path / JOURNAL, _whole(self.path / JOURNAL))

    def _clear(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        names = [*self.kind.index((), self.run, 0), JOURNAL]
        for _, line in _lines(self.path / JOURNAL):
            for name in line["files"]:
                self._remove(name)
        for name in names:
            self._remove(name)

    def _remove(self, name: str) -> None:
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts:
            with suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                (self.path / path).unlink()

    def _line_at(self, place: int) -> dict[str, Any]:
        with (self.path / JOURNAL).open("rb") as file:
            file.seek(place)
            line: dict[str, Any] = json.loads(file.readline())
        return line


class _Lines:
    """The pictures of a run, read from the disk each time they are gone through."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[Line]:
        for place, line in _lines(self._folder.path / JOURNAL):
            if place not in self._folder._stale:
                height, width = line["size"]
                yield Line(
                    line["key"], line["file"], (height, width), line["classes"], line["entry"]
                )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every whole line of a journal, with the place where it begins."""
    place = 0
    with suppress(FileNotFoundError), path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                return  # a kill came between
            yield place, json.loads(text)
            place += len(text)


def _whole(path: Path) -> int:
    """Bytes of a journal up to the end of its last whole line."""
    size, block = path.stat().st_size, 1 << 16
    with path.open("rb") as file:
        for start in range(max(size - block, 0), -block, -block):
            file.seek(max(start, 0))
            found = file.read(block if start >= 0 else block + start).rfind(b"\n")
            if found >= 0:
                return max(start, 0) + found + 1
            if start <= 0:
                break
    return 0


def _read_run(folder: Path) -> dict[str, Any] | None:
    """What made the files of a folder; None where that is not mdrt."""
    try:
        values = json.loads((folder / RUN).read_text(encoding="utf-8"))
        known = values["schema"] == SCHEMA and isinstance(values["versions"]["mdrt"], str)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return values if known else None


def _make_folders(files: Iterable[Path]) -> None:
    """Make the folders that files are to lie in."""
    try:
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be made: {error.strerror}") from error


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}")


def _write(text: Iterable[str], file: BinaryIO) -> None:
    for piece in text:
        file.write(piece.encode())


def of_run(values: Mapping[str, Any]) -> str:
    """One line that says what made something."""
    return f"mdrt {values['versions']['mdrt']}, {values['model']}, {values['settings']['head']}"
