"""Results as callers get them: records, files in any format of mdrt's, a map for screens."""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

import numpy as np
from PIL import Image

from ...kernels import void
from ..look.prompts import shown_names
from ..segmentation import Segmentation
from ..segmenter import Look, Segmenter
from ..writers import FORMATS as WRITERS
from ..writers import find_format
from ..writers.base import Line, Picture, Run
from .problems import Problem, too_large
from .questions import Question
from .uploads import Upload

RECORD: Final = "json"
LABELS: Final = "png"
OVERLAY: Final = "overlay"

FORMATS: Final[Mapping[str, str]] = {
    RECORD: "the record: classes, shares, confidences, settings",
    LABELS: "the label of every pixel, a palette image",
    OVERLAY: "the picture in its classes' colours",
    **{name: text for name, text in WRITERS.items() if name != LABELS},
}
"""What answers may be, with what it is."""

MOST_SCORES: Final = 1 << 30
"""Bytes of the scores of all classes at every pixel."""

_MEDIA: Final = {
    ".json": "application/json",
    ".png": "image/png",
    ".npz": "application/octet-stream",
    ".zip": "application/zip",
    ".xml": "application/xml",
}


@dataclass(frozen=True)
class Answer:
    """What was made of one picture.

    Attributes:
        line: the picture, and what the files of all pictures need of it.
        timings: seconds by stage.
        record: for format "json".
        files: for any other, by their paths.
    """

    line: Line
    timings: Mapping[str, float]
    record: dict[str, Any]
    files: Mapping[str, bytes]


def answer(look: Look, question: Question, upload: Upload, run: Run, key: str = "") -> Answer:
    """Ask a look, and put the result as it is sent.

    Args:
        look, question: what is asked of what.
        upload: what the caller calls the picture.
        run: what all pictures of the request have in common.
        key: names the files; the picture's stem if it is empty.

    Raises:
        Problem: it would take too much memory.
        MdrtError: what the question raises.
    """
    name = question.format
    writer = None if name in (RECORD, LABELS, OVERLAY) else find_format(name)
    scores = writer is not None and writer.scores
    if scores:
        _check_scores(look, question)
    result = replace(question.ask(look, scores), source=upload.name)
    key = key or upload.stem
    size, background = (result.labels.shape[0], result.labels.shape[1]), question.background
    record: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    entry: Mapping[str, Any] = {}
    if name == RECORD:
        record = result.record(background)
        if question.view is not None:
            record["view"] = view(result, question.view)
    elif name == LABELS:
        files[f"{key}.png"] = _png(result.label_image(background))
    elif name == OVERLAY:
        files[f"{key}.overlay.png"] = _png(result.overlay(background))
    elif writer is not None:
        writer.check(run)
        piece = writer.piece(result, Picture(key, upload.name), run)
        entry = piece.entry
        for path, write in piece.files.items():
            file = io.BytesIO()
            write(file)
            files[path] = file.getvalue()
    line = Line(key, upload.name, size, len(result.classes), entry)
    return Answer(line, result.timings, record, files)


def run_of(question: Question, segmenter: Segmenter) -> Run:
    """What all pictures of a request have in common."""
    settings = {"head": question.head.name, **question.settings, "max_size": question.max_size}
    if question.classes is None:
        settings["segments"] = question.segments
    return Run(
        None if question.classes is None else shown_names(question.classes),
        question.background,
        segmenter.manifest.model_id,
        segmenter.manifest.sha256,
        settings,
    )


def packed(
    answers: Sequence[Answer], question: Question, run: Run, failed: Sequence[Mapping[str, Any]]
) -> tuple[str, bytes, str]:
    """The files of a request as one: itself, where it is one only, else an archive.

    Args:
        answers: of its pictures, at least one.
        question, run: what was asked.
        failed: what is told of the pictures that have none.

    Returns:
        A name, the bytes and their media type.
    """
    files = {path: data for one in answers for path, data in one.files.items()}
    if question.format not in (LABELS, OVERLAY):
        lines, count = [one.line for one in answers], max(one.line.classes for one in answers)
        for path, text in find_format(question.format).index(lines, run, count).items():
            files[path] = "".join(text).encode()
    if len(files) == 1 and not failed:
        path, data = next(iter(files.items()))
        name = path.rpartition("/")[2]
        ending = name[name.rindex(".") :]
        return name, data, _MEDIA.get(ending, "application/octet-stream")
    files["mdrt.json"] = _json(run.describe(max((a.line.classes for a in answers), default=0)))
    if failed:
        files["errors.json"] = _json(list(failed))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as writing:
        for path, data in files.items():
            writing.writestr(path, data)
    stem = answers[0].line.key if len(answers) == 1 else "pictures"
    return f"{stem}.{question.format}.zip", archive.getvalue(), _MEDIA[".zip"]


def view(result: Segmentation, longest: int) -> dict[str, Any]:
    """Labels and confidences for a screen: one PNG of at most `longest` pixels a side.

    Red is the label's low byte, green its high byte (255 and 255 for void), blue the confidence,
    0 at `low` and 255 at `high`.
    """
    step = -(-max(result.labels.shape) // longest)
    labels = result.labels[step // 2 :: step, step // 2 :: step]
    confidence = result.confidence[step // 2 :: step, step // 2 :: step]
    low, high = float(confidence.min()), float(confidence.max())
    page = np.empty((*labels.shape, 3), np.uint8)
    page[..., 0], page[..., 1] = labels & 255, labels >> 8
    page[labels == void(result.labels), 1] = 255
    page[..., 2] = np.rint((confidence - low) * (255 / (high - low) if high > low else 0))
    png = base64.b64encode(_png(Image.fromarray(page), compress_level=1)).decode()
    return {"png": png, "size": list(labels.shape), "low": low, "high": high}


def _check_scores(look: Look, question: Question) -> None:
    (height, width), count = look.size, len(question.classes or ())
    wanted = 4 * height * width * count
    if wanted > MOST_SCORES:
        raise too_large(
            f"the scores of {count} classes at {width}×{height} pixels take {wanted:,} bytes, and "
            f"at most {MOST_SCORES:,} are sent; give fewer names"
        )


def _png(image: Image.Image, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", **settings or {"compress_type": zlib.Z_RLE})
    return file.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def none(failed: Sequence[Mapping[str, Any]]) -> Problem:
    """What a caller is told of a request no picture of which has an answer."""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "no picture has a result; " + "; ".join(f"{f['image']}: {f['error']}" for f in failed[:3]),
    )
