"""Labels as runs: where the label changes, found once for all classes.

The formats that hold masks as run lengths are all made of these; no mask is ever laid out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..pictures.render import Labels

Ints = NDArray[np.int64]


class Runs(NamedTuple):
    """Where one class is in a flattened picture.

    Attributes:
        label: of the class.
        starts, ends: (runs,) the pixels from start to before end are the class's, in order.
        total: pixels of the picture.
    """

    label: int
    starts: Ints
    ends: Ints
    total: int

    @property
    def area(self) -> int:
        """Pixels of the class."""
        return int((self.ends - self.starts).sum())

    def counts(self) -> Ints:
        """Lengths of the runs outside and inside by turns, outside first, so that they sum to all
        pixels; the first may be 0, and no last one is."""
        edges = np.empty(2 * len(self.starts) + 2, np.int64)
        edges[0], edges[-1] = 0, self.total
        edges[1:-1:2], edges[2:-1:2] = self.starts, self.ends
        counts = np.diff(edges)
        return counts if counts[-1] else counts[:-1]


def class_runs(labels: Labels, classes: int, by_columns: bool = False) -> Iterator[Runs]:
    """The runs of every class that has a pixel, by label; void has none.

    Args:
        labels: (H, W).
        classes: how many labels are a class's.
        by_columns: whether pixels are counted down the columns (as COCO does) or along the rows.
    """
    flat = np.ascontiguousarray(labels.T if by_columns else labels).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [flat.size]))
    found = flat[starts]
    order = np.argsort(found, kind="stable")
    bounds = np.searchsorted(found[order], np.arange(classes + 1))
    for label in range(classes):
        chosen = order[bounds[label] : bounds[label + 1]]
        if len(chosen):
            yield Runs(label, starts[chosen], ends[chosen], flat.size)


def box(runs: Runs, stride: int) -> tuple[int, int, int, int]:
    """Where a class is: first and last line, first and last place in a line, all inclusive.

    Args:
        runs: of the class.
        stride: pixels of a line: the width, or the height where they go down the columns.
    """
    last = runs.ends - 1
    top, bottom = int(runs.starts[0] // stride), int(last[-1] // stride)
    if (runs.starts // stride != last // stride).any():
        return top, bottom, 0, stride - 1  # it goes on in the next line, from its first place
    return top, bottom, int((runs.starts % stride).min()), int((last % stride).max())
