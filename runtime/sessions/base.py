"""One session for every backend: names, types and shapes are checked, then a graph runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...kernels import Array
from ..errors import MdrtError
from .device import Device


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


class Session(ABC):
    """A loaded graph, fed and read by the contract's names; a context manager that closes it.

    Attributes:
        path: the graph's file.
        device: where its arrays live.
        inputs, outputs: by name; a backend sets them when it has loaded the graph.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __init__(self, path: Path, device: Device) -> None:
        self.path, self.device = path, device
        self._closed = False

    def infer(
        self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feeds: every input by name, arrays of the session's device.
            wanted: the outputs to return; all of them by default.

        Returns:
            Arrays of the device, perhaps in buffers that the next call fills anew.

        Raises:
            MdrtError: a name, type or shape is not the graph's, an output is not finite where that
                is known at once, the session is closed, or the backend failed.
            DeviceMemoryError: memory did not suffice.
        """
        names = list(self.outputs) if wanted is None else list(wanted)
        self._check(feeds, names)
        outputs = dict(zip(names, self._compute(names, feeds), strict=True))
        for name, values in outputs.items():
            self.device.expect_finite(f"{self.path.name} output {name}", values)
        return outputs

    @abstractmethod
    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs of these names, of inputs that were checked."""

    def close(self) -> None:
        """Give back what the graph takes; it cannot be run again."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, feeds: Mapping[str, Any], names: Sequence[str]) -> None:
        if self._closed:
            raise MdrtError(f"{self.path.name} is closed; load it again")
        for unknown in self.inputs.keys() ^ feeds.keys():
            arrived = "is no input" if unknown in feeds else "was not given"
            raise MdrtError(
                f"{self.path.name}: {unknown} {arrived}; inputs are {list(self.inputs)}"
            )
        for key, array in feeds.items():
            if not self.inputs[key].admits(array):
                raise MdrtError(
                    f"{self.path.name}: input {key} is {array.dtype} {array.shape}, "
                    f"expected {self.inputs[key].dtype.__name__} {self.inputs[key].shape}"
                )
        for name in names:
            if name not in self.outputs:
                raise MdrtError(
                    f"{self.path.name}: {name} is no output; outputs are {list(self.outputs)}"
                )
