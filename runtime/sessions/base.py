"""One protocol for every backend: names, types and ranks are checked, then a graph runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...kernels import Array
from ..errors import MdrtError


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output: element type, and its shape with None for dynamic axes."""

    dtype: type[np.generic]
    shape: tuple[int | None, ...]

    def admits(self, array: Array) -> bool:
        """Whether an array has this type, this rank and every fixed axis."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(n in (None, m) for n, m in zip(self.shape, array.shape, strict=True))
        )


class Session(Protocol):
    """A loaded graph, fed and read by the contract's names.

    `infer` takes and returns arrays of its device: NumPy's, or CuPy's on a GPU. What it returns
    may lie in buffers of its own, which the next call fills anew.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    def infer(
        self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None
    ) -> dict[str, Array]: ...


def check_feeds(name: str, inputs: Mapping[str, TensorSpec], feeds: Mapping[str, Any]) -> None:
    """See that a graph gets every input, each of its type and shape.

    Raises:
        MdrtError: a name, type or shape is not the graph's.
    """
    for unknown in inputs.keys() ^ feeds.keys():
        arrived = "is no input" if unknown in feeds else "was not given"
        raise MdrtError(f"{name}: {unknown} {arrived}; inputs are {list(inputs)}")
    for key, array in feeds.items():
        if not inputs[key].admits(array):
            raise MdrtError(
                f"{name}: input {key} is {array.dtype} {array.shape}, "
                f"expected {inputs[key].dtype.__name__} {inputs[key].shape}"
            )
