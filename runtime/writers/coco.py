"""COCO: `annotations.json`, masks as compressed RLE (pycocotools' maskApi)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run, json_list, json_object, rgb
from .folder import of_run
from .runs import Ints, Runs, box, class_runs


class Coco:
    """One JSON a run: an annotation for each class of each picture, category = label + 1."""

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        confidence = result.totals(result.confidence) / np.maximum(result.totals(), 1)
        found = [
            annotation(runs, result.labels.shape[0], float(confidence[runs.label]))
            for runs in class_runs(result.labels, len(result.classes), by_columns=True)
        ]
        return Piece(entry={"annotations": found})

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        members = {
            "info": info(run, count),
            "licenses": [],
            "categories": categories(run, count),
            "images": json_list(images(lines)),
            "annotations": json_list(_annotations(lines)),
        }
        return {"annotations.json": json_object(members)}


FORMAT = Coco()


def annotation(runs: Runs, height: int, score: float) -> dict[str, Any]:
    """One class of a picture, whose runs go down the columns."""
    left, right, top, bottom = box(runs, height)
    return {
        "category_id": runs.label + 1,
        "segmentation": {
            "size": [height, runs.total // height],
            "counts": compressed(runs.counts()).decode(),
        },
        "area": runs.area,
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "iscrowd": 0,
        "score": round(score, 6),
    }


def compressed(counts: Ints) -> bytes:
    """Run lengths as maskApi's string: from the fourth on the difference to the last but one, in
    characters of 5 bits, the lowest first, with a sixth bit where more follow."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    characters = np.zeros((len(rest), 13), np.uint8)
    going = np.ones(len(rest), bool)
    for place in range(13):
        if not going.any():
            break
        low = rest & 31
        rest >>= 5
        more = np.where(low & 16, rest != -1, rest != 0)
        characters[:, place] = np.where(going, low + 48 + 32 * more, 0)
        going &= more
    return characters[characters > 0].tobytes()


def info(run: Run, count: int) -> dict[str, Any]:
    """What made the run."""
    about = run.describe(count)
    return {"description": of_run(about), "version": "1.0", "mdrt": about}


def categories(run: Run, count: int) -> list[dict[str, Any]]:
    """COCO's categories; 0 is none of them, since many tools take it for the background."""
    return [
        {
            "id": entry["label"] + 1,
            "name": entry["name"],
            "supercategory": "",
            "isthing": 0,
            "color": list(rgb(entry["colour"])),
        }
        for entry in run.classes(count)
    ]


def images(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    """COCO's images, numbered from 1 in the order of the run."""
    for number, line in enumerate(lines, 1):
        height, width = line.size
        yield {"id": number, "file_name": line.file, "height": height, "width": width}


def _annotations(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, line in enumerate(lines, 1):
        for one in line.entry["annotations"]:
            number += 1
            yield {"id": number, "image_id": image} | one
