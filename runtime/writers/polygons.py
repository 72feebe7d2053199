"""Polygons: GeoJSON with holes for maps, LabelMe's JSON for editing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from ...kernels import void
from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run, Write, dumps
from .contours import Region, regions
from .runs import Ints

_IGNORE: Final = "__ignore__"
"""LabelMe's name for what is none of the classes."""


class Polygons:
    """Two files a picture, in pixels from the upper left corner, x to the right, y down."""

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        found = regions(result.labels)
        return Piece(
            {
                f"geojson/{picture.key}.geojson": _json(_collection(found, result, picture, run)),
                f"labelme/{picture.key}.json": _json(_labelme(found, result, picture)),
            }
        )

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {}


FORMAT = Polygons()


def _collection(
    found: Iterable[Region], result: Segmentation, picture: Picture, run: Run
) -> dict[str, Any]:
    """A feature for each class that has a pixel: all its regions, with their holes."""
    pixels = result.totals()
    confidence = result.totals(result.confidence) / np.maximum(pixels, 1)
    shapes: dict[int, list[Any]] = {}
    for region in found:
        rings = [_closed(region.outline), *map(_closed, region.holes)]
        shapes.setdefault(region.label, []).append(rings)
    features = [
        {
            "type": "Feature",
            "properties": entry
            | {
                "pixels": int(pixels[entry["label"]]),
                "confidence": round(float(confidence[entry["label"]]), 6),
            },
            "geometry": {"type": "MultiPolygon", "coordinates": shapes[entry["label"]]},
        }
        for entry in run.classes(len(result.classes))
        if entry["label"] in shapes
    ]
    about = {"image": picture.file, "size": list(result.labels.shape)}
    return {"type": "FeatureCollection", "properties": about, "features": features}


def _labelme(found: Iterable[Region], result: Segmentation, picture: Picture) -> dict[str, Any]:
    """A shape for each region. LabelMe knows no holes but draws shapes one over another: the
    largest first, then what fills its holes, void too."""
    shapes = []
    for region in sorted(found, key=lambda region: -region.extent):
        none = region.label == void(result.labels)
        shapes.append(
            {
                "label": _IGNORE if none else result.classes[region.label],
                "points": region.outline.tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
        )
    height, width = result.labels.shape
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(picture.file).name,  # beside it, as LabelMe looks for it
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _closed(ring: Ints) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]


def _json(values: Mapping[str, Any]) -> Write:
    return lambda file: file.write(dumps(values).encode())
