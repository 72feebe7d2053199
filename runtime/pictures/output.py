"""Write a result beside others: label map, overlay, record; whole files or none."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ..disk.atomic import write_together
from ..errors import OutputError
from ..segmentation import Segmentation
from . import render

SCHEMA = 2
"""Version of the JSON record's layout."""


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to, and take it away again if it is empty at the end.

    Raises:
        OutputError: it cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".mdrt-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"output folder {folder} cannot be written to: {error.strerror}; choose another",
                out=...,
            ) from error
        yield
    finally:
        with suppress(OSError):  # the innermost first, until one is not empty
            for path in missing:
                path.rmdir()


def result_files(folder: Path, stem: str, with_overlay: bool = True) -> dict[str, Path]:
    """Where a result goes: label map, overlay, record."""
    files = {
        "labels": folder / f"{stem}.png",
        "overlay": folder / f"{stem}.overlay.png",
        "record": folder / f"{stem}.json",
    }
    if not with_overlay:
        del files["overlay"]
    return files


def choose_stems(pictures: Sequence[Path]) -> dict[Path, str]:
    """A name for each picture's results such that no file is written twice."""
    stems: dict[Path, str] = {}
    taken: set[Path] = set()
    for picture in pictures:
        numbers = itertools.count(2)
        stem = picture.stem
        while taken & set(result_files(Path(), stem).values()):
            stem = f"{picture.stem}-{next(numbers)}"
        stems[picture] = stem
        taken |= set(result_files(Path(), stem).values())
    return stems


def check_targets(
    results: Iterable[Mapping[str, Path]], inputs: Iterable[Path], overwrite: bool
) -> None:
    """See that results, as `result_files` names them, replace nothing but results of earlier runs.

    Raises:
        OutputError: one would replace an input or, without `overwrite`, a file of other origin.
    """
    sources = {os.path.realpath(path): path for path in inputs}
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
        if taken and not overwrite and not _is_record(files["record"]):
            raise OutputError(
                f"{taken[0]} exists and is no earlier result of mdrt; "
                "choose another folder, or allow it to be overwritten",
                out=...,
                overwrite=True,
            )


def _is_record(path: Path) -> bool:
    """Whether a file is the record of an earlier result."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(values["schema"], int) and isinstance(values["versions"]["mdrt"], str)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def record(
    result: Segmentation, image: str, model: str, background: str | None = None
) -> dict[str, Any]:
    """The JSON record of a result: classes with shares and confidences, timings, versions."""
    counts, sums = result.totals(), result.totals(result.confidence)
    classes = [
        {
            "label": label,
            "name": name,
            "pixels": int(counts[label]),
            "share": round(float(counts[label] / result.labels.size), 6),
            "confidence": round(float(sums[label] / counts[label]), 6) if counts[label] else None,
        }
        for label, name in enumerate(result.classes)
    ]
    used = sys.modules.get("onnxruntime")  # engines run without it
    return {
        "schema": SCHEMA,
        "image": image,
        "size": list(result.labels.shape),
        "model": model,
        "background": background,
        "classes": classes,
        "settings": result.settings,
        "seconds": {stage: round(seconds, 6) for stage, seconds in result.timings.items()},
        "versions": {
            "mdrt": __version__,
            **({"onnxruntime": used.__version__} if used else {}),  # whichever package it is from
            "numpy": np.__version__,
        },
    }


def write_result(
    folder: Path,
    stem: str,
    pixels: NDArray[np.uint8],
    result: Segmentation,
    values: dict[str, Any],
    *,
    background: str | None = None,
    with_overlay: bool = True,
) -> dict[str, str]:
    """Write `stem.png` (labels), `stem.overlay.png` and `stem.json`; returns their paths.

    The record appears last: where it stands, the pictures it names stand too.

    Raises:
        OutputError: a file cannot be written.
    """
    files = result_files(folder, stem, with_overlay)
    # File names need not be UTF-8; a record is.
    written = {kind: printable(path) for kind, path in files.items()}
    text = json.dumps(values | {"files": written}, indent=2, ensure_ascii=False) + "\n"
    writes: dict[str, Callable[[BinaryIO], object]] = {
        "labels": partial(render.label_image(result, background).save, format="PNG"),
        "record": lambda file: file.write(text.encode()),
    }
    if with_overlay:
        painted = render.overlay(pixels, result, background)
        writes["overlay"] = partial(painted.save, format="PNG")
    write_together({path: writes[kind] for kind, path in files.items()})
    return written


def printable(path: str | Path) -> str:
    """A path as text that can be encoded, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")
