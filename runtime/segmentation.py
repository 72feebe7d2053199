"""The result for one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import Array, Grid
from .pictures.bands import bands


@dataclass(frozen=True)
class Segmentation:
    """What a head made of one picture.

    Attributes:
        labels: (H, W) uint8 or uint16, index into `classes`.
        classes: names; "segment 1", … where there were none.
        confidence: (H, W) float32, the winning score: of heads with prototypes the cosine of each
            pixel's features to its class's (in mode "released" times the prototype's length), mixed
            with its class map by `attention`; of others the winning map. Filtered by `refine`.
            Comparable within one picture.
        scores: (classes, H, W) float32, the same for every class, those taken to be absent
            (`presence`) included; None unless asked for.
        weights: the map of every class or segment that the head averaged its prototype with, or
            took for its score: a grid of (classes, rows, columns) float32.
        timings: seconds per stage, in the order in which they ran, of what this call computed: what
            its look had already is not there; on a GPU, of its own clock.
        settings: what was used: the head, its every option, the classes taken to be absent, the
            backend, nodes of each graph by ONNX Runtime's provider (None on the CPU), Winograd
            convolutions, tiles and the network's size.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    classes: tuple[str, ...]
    confidence: Array
    scores: Array | None
    weights: Grid
    timings: dict[str, float]
    settings: dict[str, Any]

    @property
    def shares(self) -> NDArray[np.float64]:
        """(classes,) share of the pixels that each class covers, in [0, 1]."""
        return self.totals() / self.labels.size

    def totals(self, values: Array | None = None) -> NDArray[np.float64]:
        """(classes,) sum of `values` (H, W) over each class's pixels; of None, their number."""
        count = len(self.classes)
        sums = np.zeros(count)
        for rows in bands(self.labels.shape):  # bincount widens what it gets to 64 bits
            weights = None if values is None else values[rows].ravel()
            sums += np.bincount(self.labels[rows].ravel(), weights, count)
        return sums
