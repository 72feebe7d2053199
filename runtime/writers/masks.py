"""One PNG a class: white where it is, black elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from PIL import Image, PngImagePlugin

from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run
from .labels import png

_MOST_BYTES: Final = 120
"""Of a name in a file's name, which file systems end at 255."""


class Masks:
    """`pictures/NAME/LABEL-CLASS.png` for each class that has a pixel; the class's whole name
    stands in the PNG, under Title."""

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        files = {}
        for label in np.flatnonzero(result.totals()).tolist():
            name = result.classes[label]
            title = PngImagePlugin.PngInfo()
            title.add_itxt("Title", name)
            mask = Image.fromarray((result.labels == label).astype(np.uint8) * 255)
            path = f"pictures/{picture.key}/{label:03d}-{safe(name)}.png"
            files[path] = png(mask.convert("1"), pnginfo=title)
        return Piece(files)

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {}


FORMAT = Masks()


def safe(name: str) -> str:
    """A class's name as part of a file's name on any system."""
    plain = re.sub(r"[^\w\- ]", "_", name).strip()
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore")
