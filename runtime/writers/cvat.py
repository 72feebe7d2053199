"""CVAT for images 1.1: `annotations.xml`, masks as run lengths in their box."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ..segmentation import Segmentation
from .base import CONTROL, Line, Picture, Piece, Run, dumps
from .runs import Ints, Runs, box, class_runs

_SOURCE: Final = "auto"


class Cvat:
    """An image for each picture, a mask for each of its classes."""

    scores = False

    def check(self, run: Run) -> None:
        """Anything can be held."""

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        width = result.labels.shape[1]
        found = []
        for runs in class_runs(result.labels, len(result.classes)):
            lengths, place = boxed(runs, width)
            found.append([result.classes[runs.label], lengths.tolist(), place])
        return Piece(entry={"masks": found})

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        return {"annotations.xml": _document(lines, run, count)}


FORMAT = Cvat()


def boxed(runs: Runs, width: int) -> tuple[Ints, list[int]]:
    """A class's runs along the rows of its box, outside first; and the box as left, top, right,
    bottom, inclusive."""
    top, bottom, left, right = box(runs, width)
    across = right - left + 1
    # a run over the end of a row is one run in the box too: then the box is as wide as the picture
    rows = runs.starts // width
    starts = (rows - top) * across + runs.starts % width - left
    ends = starts + runs.ends - runs.starts
    apart = np.flatnonzero(starts[1:] != ends[:-1])  # in a narrower box, rows may touch
    starts = np.concatenate((starts[:1], starts[1:][apart]))
    ends = np.concatenate((ends[:-1][apart], ends[-1:]))
    inside = Runs(runs.label, starts, ends, across * (bottom - top + 1))
    return inside.counts(), [left, top, right, bottom]


def _document(lines: Iterable[Line], run: Run, count: int) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    yield "  <meta>\n    <task>\n      <labels>\n"
    for entry in run.classes(count):
        yield (
            f"        <label><name>{escape(_plain(entry['name']))}</name>"
            f"<color>{entry['colour']}</color><type>mask</type><attributes></attributes></label>\n"
        )
    yield "      </labels>\n    </task>\n"
    yield f"    <mdrt>{escape(_plain(dumps(run.describe(count))))}</mdrt>\n  </meta>\n"
    for number, line in enumerate(lines):
        height, width = line.size
        name = _attribute(line.file)
        yield f'  <image id="{number}" name={name} width="{width}" height="{height}">\n'
        for label, lengths, place in line.entry["masks"]:
            yield _mask(label, lengths, place)
        yield "  </image>\n"
    yield "</annotations>\n"


def _mask(label: str, lengths: list[int], place: list[int]) -> str:
    left, top, right, bottom = place
    return (
        f'    <mask label={_attribute(label)} source="{_SOURCE}" occluded="0" '
        f'rle="{", ".join(map(str, lengths))}" left="{left}" top="{top}" '
        f'width="{right - left + 1}" height="{bottom - top + 1}" z_order="0"></mask>\n'
    )


def _attribute(text: Any) -> str:
    return quoteattr(_plain(text))


def _plain(text: str) -> str:
    """Text without what XML cannot hold."""
    return CONTROL.sub("_", text)
