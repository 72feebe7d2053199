"""Pascal VOC's tree: JPEGImages, SegmentationClass, ImageSets/Segmentation, labelmap.txt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run
from .labels import check_count, jpeg, labelmap, named_values, palette_image, png, value_map


class Voc:
    """Palette PNGs: 0 the background, classes from 1 on, 255 void."""

    scores = False

    def check(self, run: Run) -> None:
        check_count(run, "voc")

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        count = len(result.classes)
        indexed = palette_image(value_map(result.labels, run, count), run, count)
        return Piece(
            {
                f"JPEGImages/{picture.key}.jpg": jpeg(result, picture),
                f"SegmentationClass/{picture.key}.png": png(indexed),
            }
        )

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {
            "ImageSets/Segmentation/default.txt": (f"{line.key}\n" for line in lines),
            "labelmap.txt": iter([labelmap(named_values(run, count))]),
        }


FORMAT = Voc()
