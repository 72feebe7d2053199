"""Outlines of labels: exact polygons along the sides of pixels, holes included."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..pictures.render import Labels
from .runs import Ints

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Right, down, left, up as (x, y): the way around a pixel, which lies on the right hand."""


@dataclass
class Region:
    """Pixels of one label that hang together by their sides.

    Attributes:
        label: theirs.
        outline: (corners, 2) int64 (x, y), the last not repeated; the shoelace sum is positive.
        holes: the same of what is cut out, the sum negative.
        extent: pixels within the outline, holes included.
    """

    label: int
    outline: Ints
    extent: int
    holes: list[Ints] = field(default_factory=list)


def regions(labels: Labels) -> list[Region]:
    """The regions of a picture, label by label; void is a label as any other.

    Every side of a pixel that another label lies behind is an arrow with the pixel on its right
    hand. Arrows of one label that follow one another are a ring; where two may follow, as between
    pixels that touch at a corner only, it is the one that turns to the right.
    """
    arrows, label = _arrows(labels)
    x, y, way = arrows.T
    ends = arrows[:, :2] + _STEPS[way]
    following = _following(arrows, ends, label, labels.shape)
    ring = _rings(following)
    doubled = np.bincount(ring, x * ends[:, 1] - ends[:, 0] * y, len(ring)).astype(np.int64)
    owner = _owners(arrows, label, ring, doubled)
    found: dict[int, Region] = {}
    outlines = _corners(arrows, following, ring)
    for first in outlines:
        if doubled[first] > 0:
            found[first] = Region(int(label[first]), outlines[first], int(doubled[first]) // 2)
    for first, parent in owner.items():
        found[parent].holes.append(outlines[first])
    return sorted(found.values(), key=lambda region: region.label)


def _arrows(labels: Labels) -> tuple[Ints, NDArray[np.int64]]:
    """Every arrow as x, y and way, and its label."""
    height, width = labels.shape
    padded = np.full((height + 2, width + 2), -1, np.int32)
    padded[1:-1, 1:-1] = labels
    inner = padded[1:-1, 1:-1]
    found, owners = [], []
    # where an arrow begins, beside the pixel's own place: top, right, bottom, left side
    for way, (rows, columns, dx, dy) in enumerate(
        ((0, 1, 0, 0), (1, 2, 1, 0), (2, 1, 1, 1), (1, 0, 0, 1))
    ):
        behind = padded[rows : rows + height, columns : columns + width]
        y, x = np.nonzero(inner != behind)
        found.append(np.stack([x + dx, y + dy, np.full(len(x), way)], axis=1))
        owners.append(inner[y, x].astype(np.int64))
    return np.concatenate(found), np.concatenate(owners)


def _following(
    arrows: Ints, ends: Ints, label: NDArray[np.int64], size: tuple[int, ...]
) -> NDArray[np.int64]:
    """For each arrow the next of its ring."""
    places, across = (size[0] + 1) * (size[1] + 1), size[1] + 1
    begin = label * places + arrows[:, 1] * across + arrows[:, 0]
    end = label * places + ends[:, 1] * across + ends[:, 0]
    order = np.argsort(begin, kind="stable")
    keys = begin[order]
    place = np.searchsorted(keys, end)
    other = np.minimum(place + 1, len(keys) - 1)
    one, two = order[place], order[other]
    right = (keys[other] == end) & (arrows[two, 2] == (arrows[:, 2] + 1) % 4)
    return np.where(right, two, one)


def _rings(following: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each arrow the first of its ring, by doubling steps."""
    ring, leap = np.arange(len(following)), following
    while True:
        lower = np.minimum(ring, ring[leap])
        if (lower == ring).all():
            return ring
        ring, leap = lower, leap[leap]


def _owners(
    arrows: Ints, label: NDArray[np.int64], ring: NDArray[np.int64], doubled: Ints
) -> dict[int, int]:
    """For each ring around a hole the outline of the region that it is a hole of.

    From the hole's highest, leftmost side along the row to the left all is the region's, up to its
    next side; that is of the outline, or of a hole that was met before.
    """
    x, y, way = arrows.T
    upright = np.flatnonzero(way % 2)
    rows = y[upright] - (way[upright] == 3)  # an arrow up begins at the lower end
    order = np.lexsort((x[upright], rows, label[upright]))
    sides = upright[order]
    holes = np.flatnonzero(doubled[ring[sides]] < 0)
    owner: dict[int, int] = {}
    by_place = np.lexsort((x[sides[holes]], rows[order[holes]]))
    for place in holes[by_place].tolist():
        first = int(ring[sides[place]])
        if first not in owner:
            beside = int(ring[sides[place - 1]])
            owner[first] = owner.get(beside, beside)
    return owner


def _corners(
    arrows: Ints, following: NDArray[np.int64], ring: NDArray[np.int64]
) -> dict[int, Ints]:
    """The corners of each ring, by its first arrow."""
    way = arrows[:, 2]
    turned = np.zeros(len(way), bool)
    turned[following] = way[following] != way
    leap = following
    while not turned[leap].all():
        leap = np.where(turned[leap], leap, leap[leap])
    corners = np.flatnonzero(turned)
    number = np.zeros(len(way), np.int64)
    number[corners] = np.arange(len(corners))
    successor = number[leap[corners]].tolist()
    rings, points = ring[corners].tolist(), arrows[corners, :2]
    found: dict[int, Ints] = {}
    for begin, first in enumerate(rings):
        if first in found:
            continue
        walk, at = [begin], successor[begin]
        while at != begin:
            walk.append(at)
            at = successor[at]
        found[first] = points[walk]
    return found
