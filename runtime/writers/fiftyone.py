"""FiftyOne's ImageSegmentationDirectory: data/, labels/, and the names of the masks' values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from PIL import Image

from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run, json_object
from .labels import VOID_VALUE, check_count, jpeg, named_values, png, value_map


class FiftyOne:
    """Grey PNGs, since FiftyOne takes a palette image's colours for its values: 0 the background,
    which it never shows, classes from 1 on, 255 void."""

    scores = False

    def check(self, run: Run) -> None:
        check_count(run, "fiftyone")

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        grey = Image.fromarray(value_map(result.labels, run, len(result.classes)))
        return Piece(
            {
                f"data/{picture.key}.jpg": jpeg(result, picture),
                f"labels/{picture.key}.png": png(grey),
            }
        )

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        found = named_values(run, count)
        names = {str(value): name for value, (name, _) in found.items()}
        colours = [
            {"intTarget": value, "color": "#" + bytes(colour).hex()}
            for value, (_, colour) in found.items()
            if value
        ]
        members = {
            "mask_targets": names | {str(VOID_VALUE): "void"},
            "mask_targets_colors": colours,
        }
        return {"mask_targets.json": json_object(members)}


FORMAT = FiftyOne()
