"""NumPy's arrays: labels, confidence and the scores of all classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..pictures.render import colours
from ..segmentation import Segmentation
from .base import Line, Picture, Piece, Run


class Npz:
    """An archive for each picture, not compressed: `labels` (H, W), `confidence` (H, W) float32,
    `scores` (classes, H, W) float32, `classes` (classes,) text, `colours` (classes, 3) uint8."""

    scores = True

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        assert result.scores is not None
        arrays: dict[str, Any] = {
            "labels": result.labels,
            "confidence": result.confidence,
            "scores": result.scores,
            "classes": np.array(result.classes, str),
            "colours": colours(result.classes, run.background),
        }
        return Piece({f"{picture.key}.npz": lambda file: np.savez(file, **arrays)})

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {}


FORMAT = Npz()
