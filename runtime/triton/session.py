"""A session whose graph is another model of the same Triton server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ...kernels import Array
from ..bundle.contract import TIMESTEP, Manifest
from ..errors import MdrtError
from ..look.axes import graph_axes
from ..sessions.base import Session, TensorSpec
from ..sessions.device import Host
from .config import BATCH, dtype, network_name


class TritonSession(Session):
    """Asks the server for what a graph gives (business logic scripting), `BATCH` rows at a time:
    the server puts rows of several requests together."""

    def __init__(
        self, path: Path, manifest: Manifest, utils: ModuleType, rows: int = BATCH
    ) -> None:
        """`utils` is the server's `triton_python_backend_utils`; `rows` the most of a call."""
        super().__init__(path, Host())
        fed, given = graph_axes(manifest, path.name)
        self.inputs = {name: TensorSpec(dtype(name), shape) for name, shape in fed.items()}
        self.outputs = {name: TensorSpec(dtype(name), shape) for name, shape in given.items()}
        self._model, self._utils, self._rows = network_name(path.name), utils, rows

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        count = len(next(iter(feeds.values())))
        parts = [
            self._ask(names, {n: v[start : start + self._rows] for n, v in feeds.items()})
            for start in range(0, count, self._rows)
        ]
        return (
            parts[0]
            if len(parts) == 1
            else [np.concatenate(own) for own in zip(*parts, strict=True)]
        )

    def _ask(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        utils = self._utils
        inputs = [
            utils.Tensor(name, np.ascontiguousarray(v[:, None] if name == TIMESTEP else v))
            for name, v in feeds.items()
        ]
        response = utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=list(names),
            inputs=inputs,
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise MdrtError(f"model {self._model} of this server: {response.error().message()}")
        found = (utils.get_output_tensor_by_name(response, name) for name in names)
        return [np.array(tensor.as_numpy()) for tensor in found]
