"""Where the background begins, tried at several values over one reading of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..metrics import Labels

BACKGROUND: Final = "background"
"""The name of the class that is what no other name stands for, as voc21 and context60 have it."""


def background_of(classes: Sequence[Sequence[str]]) -> int | None:
    """The index of the background among classes, each with its synonyms; None if there is none."""
    return next((index for index, names in enumerate(classes) if BACKGROUND in names), None)


@dataclass(frozen=True)
class BackgroundSweep:
    """Scores of the background that are tried, each over the whole data set.

    Attributes:
        values: tried in turn.
        own: whether they are added to the score that the background's own name has; otherwise they
            stand in its place, and its name is not in the prompt.
    """

    values: tuple[float, ...]
    own: bool

    def labels(self, scores: NDArray[np.float32], names: Sequence[int], background: int) -> Labels:
        """Label maps (values, H, W) int16 of a picture.

        Args:
            scores: (names, H, W); −inf of a class that is taken to be absent.
            names: the class of each; with `own` the background is one of them.
            background: its class.
        """
        others = np.array([place for place, name in enumerate(names) if name != background])
        best = np.asarray(names)[others][scores[others].argmax(axis=0)]
        highest = scores[others].max(axis=0)
        own = scores[list(names).index(background)] if self.own else np.float32(0)
        found = [np.where(own + value > highest, background, best) for value in self.values]
        return np.stack(found).astype(np.int16)
