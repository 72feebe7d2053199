"""Label Studio: `tasks.json` with brush strokes as predictions, `config.xml` with the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run, json_list
from .brush import brush_rle
from .runs import class_runs

_LOCAL = "/data/local-files/?d="
"""How tasks name files under the server's LOCAL_FILES_DOCUMENT_ROOT."""


class LabelStudio:
    """A task for each picture, a stroke for each of its classes."""

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        return Piece(entry={"result": strokes(result)})

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {
            "tasks.json": json_list(_tasks(lines, run)),
            "config.xml": iter([config(run.classes(count))]),
        }


FORMAT = LabelStudio()


def strokes(result: Segmentation) -> list[dict[str, Any]]:
    """The result of a prediction: a brush stroke for each class that has a pixel."""
    height, width = result.labels.shape
    confidence = result.totals(result.confidence) / np.maximum(result.totals(), 1)
    return [
        {
            "id": f"mdrt-{runs.label}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(float(confidence[runs.label]), 6),
            "value": {
                "format": "rle",
                "rle": brush_rle(runs).tolist(),
                "brushlabels": [result.classes[runs.label]],
            },
        }
        for runs in class_runs(result.labels, len(result.classes))
    ]


def config(classes: Iterable[Mapping[str, Any]]) -> str:
    """The labelling interface: a brush for each class, in its colour."""
    labels = "".join(
        f"    <Label value={quoteattr(entry['name'])} background={quoteattr(entry['colour'])}/>\n"
        for entry in classes
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )


def _tasks(lines: Iterable[Line], run: Run) -> Iterator[dict[str, Any]]:
    for line in lines:
        prediction = {"model_version": f"{run.model} {run.bundle[:12]}"}
        yield {
            "data": {"image": _LOCAL + quote(line.file)},
            "predictions": [prediction | {"result": line.entry["result"]}],
        }
