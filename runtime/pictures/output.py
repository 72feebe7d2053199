"""Write a result beside others: label map, overlay, record; whole files or none."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from PIL import Image, PngImagePlugin

from ..disk.atomic import State, aside_folder, recover, state, write_atomically, write_together
from ..errors import OutputError

if TYPE_CHECKING:
    from ..segmentation import Segmentation


_MARK: Final = "Software"
"""The PNG keyword under which a picture says that mdrt wrote it."""


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to, and take it away again if it is empty at the end. What
    runs that were killed had begun there is ended first.

    Raises:
        OutputError: it cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recover(folder)
            with aside_folder(folder):
                pass
        except OSError as error:
            raise OutputError(
                f"output folder {folder} cannot be written to: {_reason(error)}; choose another",
                out=...,
            ) from error
        yield
    finally:
        with suppress(OSError):  # the innermost first, until one is not empty
            for path in missing:
                path.rmdir()


def _reason(error: OSError) -> str:
    """What is wrong with a folder."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "it is a file, or in one"
    return error.strerror or str(error)


def result_files(target: Path, with_overlay: bool = True) -> dict[str, Path]:
    """Where a result goes: label map, overlay, record; `target` is their path without a suffix."""
    endings = {"labels": ".png", "overlay": ".overlay.png", "record": ".json"}
    if not with_overlay:
        del endings["overlay"]
    return {kind: target.with_name(target.name + ending) for kind, ending in endings.items()}


def choose_targets(folder: Path, pictures: Mapping[Path, Path]) -> dict[Path, Path]:
    """A target for each picture's results such that no file is written twice.

    Args:
        folder: of all results.
        pictures: each with the folder in it that its results go to.
    """
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for picture, place in pictures.items():
        numbers = itertools.count(2)
        target = folder / place / picture.stem
        while taken & set(result_files(target).values()):
            target = target.with_name(f"{picture.stem}-{next(numbers)}")
        targets[picture] = target
        taken |= set(result_files(target).values())
    return targets


def is_result(path: Path) -> bool:
    """Whether a picture is a label map or overlay that an earlier run wrote."""
    stem = path.name.removesuffix(".png").removesuffix(".overlay")
    return path.suffix == ".png" and read_record(path.with_name(f"{stem}.json")) is not None


def check_targets(
    results: Iterable[Mapping[str, Path]], inputs: Iterable[str | Path], overwrite: bool
) -> dict[Path, State]:
    """See that results, as `result_files` names them, replace nothing but results of earlier runs.

    Those are known by their record or, if that was lost, by the mark in their pictures. What runs
    that were killed had begun there is ended first.

    Returns:
        What stands where each file goes, for `write_result`: nothing else is replaced later.

    Raises:
        OutputError: one would replace an input or, without `overwrite`, a file of other origin.
    """
    sources = {os.path.realpath(path): path for path in inputs}
    results = list(results)
    for folder in {path.parent for files in results for path in files.values()}:
        recover(folder)
    seen = {path: state(path) for files in results for path in files.values()}
    for files in results:
        for path in files.values():
            source = sources.get(os.path.realpath(path))
            if source is not None:
                raise OutputError(
                    f"results in {path.parent} would replace the input {source}; "
                    "choose another folder",
                    out=...,
                )
        taken = [path for path in files.values() if os.path.lexists(path)]
        if taken and not overwrite and not _are_ours(files):
            raise OutputError(
                f"{taken[0]} exists and is no earlier result of mdrt; "
                "choose another folder, or allow it to be overwritten",
                out=...,
                overwrite=True,
            )
    return seen


def _are_ours(files: Mapping[str, Path]) -> bool:
    """Whether files are a result of an earlier run."""
    if read_record(files["record"]) is not None:
        return True
    for kind in ("labels", "overlay"):
        try:
            with Image.open(files.get(kind, "")) as image:
                if str(image.info.get(_MARK, "")).startswith("mdrt "):
                    return True
        except Exception:  # none of ours, whatever it is
            continue
    return False


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of an earlier result; None where a file is none, or there is no file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(values["schema"], int) and isinstance(values["versions"]["mdrt"], str)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return values if known else None


def write_result(
    target: Path,
    result: Segmentation,
    background: str | None = None,
    with_overlay: bool = True,
    seen: Mapping[Path, State] | None = None,
    others: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write labels, overlay and record, see `result_files`; returns the record, which also names
    `others`, what was written beside them.

    They appear together, the record last: where it stands, the pictures it names stand too.

    Args:
        seen: what `check_targets` saw where they go; None: whatever stands there is replaced.

    Raises:
        OutputError: a file cannot be written, or another was put there since.
    """
    files = result_files(target, with_overlay)
    # File names need not be UTF-8; a record is.
    written = {kind: printable(path) for kind, path in files.items()}
    record = result.record(background) | {"files": written | dict(others or {})}
    mark = PngImagePlugin.PngInfo()
    mark.add_text(_MARK, f"mdrt {record['versions']['mdrt']}")
    # run lengths alone: a quarter of the time of Pillow's own choice, and files no larger
    png: dict[str, Any] = {"format": "PNG", "pnginfo": mark, "compress_type": zlib.Z_RLE}
    text = record_text(record)
    writes: dict[str, Callable[[BinaryIO], object]] = {
        "labels": partial(result.label_image(background).save, **png),
        "record": lambda file: file.write(text),
    }
    if with_overlay:
        writes["overlay"] = partial(result.overlay(background).save, **png)
    write_together({path: writes[kind] for kind, path in files.items()}, seen)
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record by itself.

    Raises:
        OutputError: the disk refused.
    """
    write_atomically(path, lambda file: file.write(record_text(record)))


def record_text(record: Mapping[str, Any]) -> bytes:
    """A record as it stands in its file."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def printable(path: str | Path) -> str:
    """A path as text that can be encoded, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")
