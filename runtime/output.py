"""Write a result beside others: label map, overlay, record; whole files or none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import render
from .errors import OutputError
from .segmenter import Segmentation

SCHEMA = 1
"""Version of the JSON record's layout."""


def prepare_folder(folder: Path) -> None:
    """Make the output folder and see that it can be written to.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".mdrt-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"output folder {folder} cannot be written to: {error.strerror}; "
            "choose another with --out"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file aside and rename it: it is whole or not there.

    Raises:
        OutputError: the disk refused.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            write(file)
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def record(
    result: Segmentation, image: str, model: str, background: str | None = None
) -> dict[str, Any]:
    """The JSON record of a result: classes with shares and confidences, timings, versions."""
    flat = result.labels.ravel()
    counts = np.bincount(flat, minlength=len(result.classes))
    sums = np.bincount(flat, weights=result.confidence.ravel(), minlength=len(counts))
    classes = [
        {
            "label": label,
            "name": name,
            "pixels": int(counts[label]),
            "share": round(float(counts[label] / flat.size), 6),
            "confidence": round(float(sums[label] / counts[label]), 6) if counts[label] else None,
        }
        for label, name in enumerate(result.classes)
    ]
    return {
        "schema": SCHEMA,
        "image": image,
        "size": list(result.labels.shape),
        "model": model,
        "background": background,
        "classes": classes,
        "settings": result.settings,
        "seconds": {stage: round(seconds, 6) for stage, seconds in result.timings.items()},
        "versions": {name: version(name) for name in ("mdrt", "onnxruntime", "numpy")},
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

    The record is written last: where it stands, the pictures it names stand too.

    Raises:
        OutputError: a file cannot be written.
    """
    files = {"labels": folder / f"{stem}.png"}
    image = render.label_image(result, background)
    write_atomically(files["labels"], lambda file: image.save(file, format="PNG"))
    if with_overlay:
        files["overlay"] = folder / f"{stem}.overlay.png"
        painted = render.overlay(pixels, result, background)
        write_atomically(files["overlay"], lambda file: painted.save(file, format="PNG"))
    written = {kind: str(path) for kind, path in files.items()}
    text = json.dumps(values | {"files": written}, indent=2, ensure_ascii=False) + "\n"
    files["record"] = folder / f"{stem}.json"
    write_atomically(files["record"], lambda file: file.write(text.encode()))
    return written | {"record": str(files["record"])}
