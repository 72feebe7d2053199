"""How much work the graphs are, and how much this machine can do: the limit of every stage."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.bundle import contract
from ...runtime.bundle.loading import Bundle
from ...runtime.sessions.ort import OrtSession
from .runtimes import stock_session

_PRODUCTS: Final = ("MatMul", "FusedMatMul", "Gemm")


def multiply_adds(bundle: Bundle, size: int) -> dict[str, int]:
    """Multiply-adds of matrix products and convolutions of each graph, for one `size`² picture.

    Counted from the shapes that ONNX Runtime reports for every node of the graph as it runs.
    """
    manifest = bundle.manifest
    graphs = {
        "vae": [contract.VAE_ENCODER] if manifest.latent else [],
        "text": [text.graph for text in manifest.texts],
        "unet": [manifest.network],
    }
    return {
        stage: sum(
            _graph_multiply_adds(bundle.path / name, _zeros(manifest, name, size)) for name in own
        )
        for stage, own in graphs.items()
        if own
    }


def _zeros(manifest: contract.Manifest, graph: str, size: int) -> dict[str, NDArray[Any]]:
    """Inputs of a graph for one picture."""
    whole = (contract.INPUT_IDS, contract.TIMESTEP)
    return {
        name: np.zeros(shape, np.int64 if name in whole else np.float32)
        for name, shape in manifest.inputs(graph, 1, size, size).items()
    }


def _graph_multiply_adds(path: Path, feeds: Mapping[str, NDArray[Any]]) -> int:
    with OrtSession(path, profile=True) as session:
        session.infer(feeds)
        _, events = session.end_profile()
    total = 0
    for event in events:
        details = event.get("args", {})
        if not event["name"].endswith("_kernel_time"):
            continue
        inputs, outputs = (
            [next(iter(entry.values())) for entry in details.get(f"{side}_type_shape", [])]
            for side in ("input", "output")
        )
        if details["op_name"] == "Conv":
            total += math.prod(outputs[0]) * math.prod(inputs[1][1:])
        elif details["op_name"] in _PRODUCTS:
            total += math.prod(outputs[0]) * inputs[0][-1]
    return total


def reading(bundle: Bundle) -> float:
    """Seconds to read every file of a bundle once, from wherever the system has them."""
    start = time.perf_counter()
    for name in bundle.manifest.files:
        with (bundle.path / name).open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass
    return time.perf_counter() - start


def peaks(threads: int | None, repeats: int = 5) -> dict[str, float]:
    """Operations a second, two a multiply-add, of a large matrix product and a 3×3 convolution."""
    random = np.random.default_rng(0)
    square = random.standard_normal((2048, 2048), dtype=np.float32)
    picture = random.standard_normal((1, 256, 128, 128), dtype=np.float32)
    kernels = random.standard_normal((256, 256, 3, 3), dtype=np.float32)
    return {
        "product": 2 * 2048**3 / _seconds("MatMul", square, square, threads, repeats, {}),
        "convolution": 2 * 9 * 256**2 * 128**2
        / _seconds("Conv", picture, kernels, threads, repeats, {"pads": [1, 1, 1, 1]}),
    }  # fmt: skip


def _seconds(
    operator: str,
    x: NDArray[Any],
    w: NDArray[Any],
    threads: int | None,
    repeats: int,
    attributes: dict[str, Any],
) -> float:
    """Median seconds of one node of ONNX Runtime's, after one run that does not count."""
    node = onnx.helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * x.ndim)
        for name in ("x", "y")
    ]
    weight = onnx.numpy_helper.from_array(w, "w")
    graph = onnx.helper.make_graph([node], "peak", ends[:1], ends[1:], [weight])
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = stock_session(model.SerializeToString(), threads)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        session.run(None, {"x": x})
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
