"""What a data set is to an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One picture with its truth.

    Attributes:
        id: its name in the data set.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8, class index; 255 does not count.
    """

    id: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]


class Dataset(Protocol):
    """Pictures that are read when they are asked for."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> Sequence[tuple[str, ...]]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def missing(self) -> Sequence[str]:
        """The ids whose mask is not there."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...
