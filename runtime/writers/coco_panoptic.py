"""COCO panoptic: `panoptic.json`, and for each picture a PNG of segment ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...kernels import void
from ..pictures.render import Labels
from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run, json_list, json_object
from .coco import categories, images, info
from .labels import png
from .runs import box, class_runs

_FOLDER = "panoptic"


class Panoptic:
    """A segment for each class of a picture: id = category = label + 1, and 0 where there is none.

    In the PNG, id = R + 256·G + 65536·B.
    """

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        width = result.labels.shape[1]
        segments = []
        for runs in class_runs(result.labels, len(result.classes)):
            top, bottom, left, right = box(runs, width)
            segments.append(
                {
                    "id": runs.label + 1,
                    "category_id": runs.label + 1,
                    "area": runs.area,
                    "bbox": [left, top, right - left + 1, bottom - top + 1],
                    "iscrowd": 0,
                }
            )
        image = png(Image.fromarray(ids(result.labels)))
        return Piece({f"{_FOLDER}/{picture.key}.png": image}, {"segments": segments})

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        members = {
            "info": info(run, count),
            "licenses": [],
            "categories": categories(run, count),
            "images": json_list(images(lines)),
            "annotations": json_list(_annotations(lines)),
        }
        return {"panoptic.json": json_object(members)}


FORMAT = Panoptic()


def ids(labels: Labels) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: label + 1 in red and green, 0 of void."""
    found = labels.astype(np.uint16) + np.uint16(1)  # of 16-bit void, 0 again
    if labels.dtype == np.uint8:
        found[labels == void(labels)] = 0
    low, high = (found & 255).astype(np.uint8), (found >> 8).astype(np.uint8)
    return np.stack([low, high, np.zeros_like(low)], axis=-1)


def _annotations(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    for image, line in enumerate(lines, 1):
        yield {
            "image_id": image,
            "file_name": f"{line.key}.png",
            "segments_info": line.entry["segments"],
        }
