"""The low-resolution map on which everything in this room computes, and the array it holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # of NumPy, or of CuPy with the same interface
Size: TypeAlias = tuple[int, int]  # (rows, columns) of an output grid
Mode: TypeAlias = Literal["paper", "released"]


def array_module(array: Array) -> ModuleType:
    """The module an array belongs to (numpy or cupy); imports nothing."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def on_gpu(array: Array) -> bool:
    """Whether an array is CuPy's: then the kernels of `mdrt.kernels.cuda` take over."""
    return array_module(array).__name__ == "cupy"


def label_type(classes: int) -> str:
    """The type of labels: its largest value is no class, but `void`."""
    return "uint8" if classes <= 255 else "uint16"


def void(labels: Array) -> int:
    """The label of pixels that belong to no class: 255, or 65535 in 16 bits."""
    return int(np.iinfo(labels.dtype).max)


@dataclass(frozen=True)
class Grid:
    """A map on a grid of the canvas the network saw.

    The image may cover only the top-left share of the canvas (padding on the right and below).
    """

    values: Array
    """(channels, h, w) floating point."""
    extent: tuple[float, float] = (1.0, 1.0)
    """Share (rows, columns) of the grid that the image covers, from the top left, in (0, 1]."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or 0 in self.values.shape:
            raise ValueError(f"grid values must be (channels, h, w), got {self.values.shape}")
        if not all(0 < share <= 1 for share in self.extent):
            raise ValueError(f"grid extent must lie in (0, 1], got {self.extent}")

    @property
    def size(self) -> Size:
        """(h, w)."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def flat(self) -> Array:
        """(channels, h·w)."""
        return self.values.reshape(len(self.values), -1)


def check_classes(name: str, arrays: Sequence[Array], levels: Sequence[Array]) -> None:
    """Raise unless there is one array per level and all agree on their first axis."""
    if len(arrays) != len(levels):
        raise ValueError(f"{name}: got {len(arrays)} levels, expected {len(levels)}")
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"{name}: levels disagree on the classes: {[len(a) for a in arrays]}")
