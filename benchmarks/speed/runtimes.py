"""The same bundle on other runtimes: their sessions, behind mdrt's own protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.disk.hashes import remembered_sha256
from ...runtime.sessions.base import Session, TensorSpec
from ...runtime.sessions.device import Host
from ...runtime.sessions.onnx_runtime import onnx_runtime

Arrays = Sequence[NDArray[Any]]
Feeds = Mapping[str, NDArray[Any]]


def stock_session(model: Path | bytes, threads: int | None = None) -> Any:
    """ONNX Runtime's own session, as it comes: its defaults, no twin, no operator of ours.

    Args:
        model: a graph's file, or what would be in it.
        threads: of one operator; None takes every core.
    """
    ort = onnx_runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    given = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(given, options, ["CPUExecutionProvider"])


class StockOrtSession(Session):
    """A graph on ONNX Runtime as it comes."""

    def __init__(self, path: Path, threads: int | None) -> None:
        super().__init__(path, Host())
        self._session = stock_session(path, threads)
        self.inputs, self.outputs = _specs(path)

    def _compute(self, names: Sequence[str], feeds: Feeds) -> Arrays:
        found: Arrays = self._session.run(list(names), dict(feeds))
        return found


class OpenVinoSession(Session):
    """A graph on OpenVINO, read from the same ONNX file; arithmetic in "f32" or "bf16"."""

    def __init__(self, path: Path, threads: int | None, precision: str = "f32") -> None:
        import openvino as ov

        super().__init__(path, Host())
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._model = ov.compile_model(str(path), "CPU", settings)
        kinds: dict[str, type[np.generic]] = {"f32": np.float32, "i64": np.int64}

        def spec(port: Any) -> TensorSpec:
            shape = tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
            return TensorSpec(kinds[port.element_type.get_type_name()], shape)

        self.inputs = {port.any_name: spec(port) for port in self._model.inputs}
        self.outputs = {port.any_name: spec(port) for port in self._model.outputs}
        self._request = self._model.create_infer_request()

    def _compute(self, names: Sequence[str], feeds: Feeds) -> Arrays:
        self._request.infer(dict(feeds))
        return [self._request.get_tensor(name).data.copy() for name in names]


class MnnSession(Session):
    """A graph on MNN, from a file that `mnn_file` converted."""

    def __init__(self, path: Path, converted: Path, threads: int | None) -> None:
        import MNN
        import MNN.nn

        super().__init__(path, Host())
        self.inputs, self.outputs = _specs(path)
        self._expr = MNN.expr
        settings = {"backend": 0, "precision": "high", "numThread": threads or os.cpu_count()}
        self._module = MNN.nn.load_module_from_file(
            str(converted),
            list(self.inputs),
            list(self.outputs),
            runtime_manager=MNN.nn.create_runtime_manager((settings,)),
            shape_mutable=True,
        )

    def _compute(self, names: Sequence[str], feeds: Feeds) -> Arrays:
        given = []
        for name in self.inputs:
            whole = feeds[name].dtype != np.float32
            array = np.ascontiguousarray(feeds[name], dtype=np.int32 if whole else np.float32)
            kind = self._expr.int if whole else self._expr.float
            given.append(self._expr.const(array, list(array.shape), self._expr.NCHW, kind))
        found = dict(zip(self.outputs, self._module.onForward(given), strict=True))
        return [np.array(found[name].read()) for name in names]


def mnn_file(path: Path, folder: Path) -> Path:
    """The graph at `path` converted into `folder`, where it stays for the next run.

    It is kept under a digest of the graph, its weights and MNN's version, and moved there once it
    is whole. The converter runs in a process of its own, since it takes three times the weights'
    memory, and is called directly: MNN's command-line wrapper reports its use over the network.

    Raises:
        RuntimeError: MNN cannot convert the graph.
    """
    name = f"{path.stem}-{_digest(path)[:32]}.mnn"
    if (folder / name).exists():
        return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # it leaves files where it runs
        flags = ["-f", "ONNX", "--bizCode", "mdrt", "--saveExternalData", "1"]
        converted = Path(scratch).resolve() / name
        arguments = [*flags, "--modelFile", str(path.resolve()), "--MNNModel", str(converted)]
        call = f"_tools.mnnconvert({['mnnconvert', *arguments]!r})"
        code = f"import sys, _tools; sys.exit(not {call})"
        done = subprocess.run([sys.executable, "-c", code], cwd=scratch, capture_output=True)
        if done.returncode or not converted.exists():
            raise RuntimeError(f"MNN cannot convert {path}: {done.stderr.decode()[-300:]}")
        weights = converted.with_name(f"{name}.weight")
        for made in (weights, converted):  # the graph last: where it is, all is
            if made.exists():
                made.replace(folder / made.name)
    return folder / name


def _digest(path: Path) -> str:
    """Of what a conversion depends on: the graph, the files of its weights, and MNN."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {
        entry.value
        for initializer in graph.initializer
        for entry in initializer.external_data
        if entry.key == "location"
    }
    files = [path, *(path.parent / name for name in sorted(weights))]
    parts = [_mnn_version(), *(remembered_sha256(file) for file in files)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _mnn_version() -> str:
    """Of MNN as it is installed; empty where it is not."""
    try:
        return version("MNN")
    except PackageNotFoundError:
        return ""


def opener(runtime: str, threads: int | None, folder: Path) -> Callable[[Path], Session]:
    """What loads a graph into `runtime`: a key of the table below. MNN keeps what it converts in
    `folder`."""

    def on_mnn(path: Path) -> Session:
        if path.name.startswith("text_encoder"):  # int64 ids throughout, and nothing to convolve
            return StockOrtSession(path, threads)
        return MnnSession(path, mnn_file(path, folder), threads)

    makers: dict[str, Callable[[Path], Session]] = {
        "onnxruntime": lambda path: StockOrtSession(path, threads),
        "openvino": lambda path: OpenVinoSession(path, threads),
        "openvino-bf16": lambda path: OpenVinoSession(path, threads, "bf16"),
        "mnn": on_mnn,
    }
    return makers[runtime]


def _specs(path: Path) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Inputs and outputs of an ONNX file, without its weights."""
    import onnx

    kinds: dict[int, type[np.generic]] = {
        onnx.TensorProto.FLOAT: np.float32,
        onnx.TensorProto.INT64: np.int64,
    }
    graph = onnx.load(path, load_external_data=False).graph

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        return TensorSpec(
            kinds[tensor.elem_type], tuple(d.dim_value or None for d in tensor.shape.dim)
        )

    inputs, outputs = ({v.name: spec(v) for v in side} for side in (graph.input, graph.output))
    return inputs, outputs
