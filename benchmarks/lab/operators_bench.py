"""Layers of Stable Diffusion 1.4 at 512²: mdrt's operators beside ONNX Runtime's.

One layer alone in a session, by turns; medians. Needs the compiled operators and onnx.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from rich.console import Console
from rich.table import Table

from ...kernels.cpu import has_tiles, operator_library
from ...runtime.errors import MdrtError

CONVOLUTIONS: Final = (  # channels in and out, side, kernel, stride
    (128, 128, 512, 3, 1),
    (256, 256, 256, 3, 1),
    (512, 512, 128, 3, 1),
    (512, 512, 64, 3, 1),
    (320, 320, 64, 3, 1),
    (640, 640, 32, 3, 1),
    (1280, 1280, 16, 3, 1),
    (2560, 1280, 16, 3, 1),
    (1280, 1280, 8, 3, 1),
    (128, 128, 512, 3, 2),
    (320, 320, 64, 1, 1),
)
PRODUCTS: Final = ((4096, 320, 2560), (1024, 640, 5120), (256, 1280, 10240), (64, 1280, 1280))
ATTENTION: Final = ((4096, 4096, 8, 40), (1024, 1024, 8, 80), (4096, 77, 8, 40))
_NORM: Final[dict[str, Any]] = {"groups": 1, "epsilon": 0.0, "silu": 0}


@dataclass(frozen=True)
class Layer:
    """A layer, its inputs, and the node of every contender."""

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    nodes: dict[str, Any]


def layers() -> Iterator[Layer]:
    """Every layer that is timed."""
    inputs: Mapping[str, tuple[int, ...]]
    for channels, out, side, kernel, stride in CONVOLUTIONS:
        pad = kernel // 2
        pads: dict[str, Any] = dict.fromkeys(
            ("pad_top", "pad_left", "pad_bottom", "pad_right"), pad
        )
        inputs = {"x": (1, channels, side, side), "w": (out, channels, kernel, kernel)}
        nodes = {
            "onnxruntime": _node("Conv", inputs, "", pads=[pad] * 4, strides=[stride] * 2),
            "bf16x3": _node("Conv", inputs, stride=stride, **pads, **_NORM),
        }
        if (kernel, stride) == (3, 1):
            nodes["winograd"] = _node("WinogradConv", inputs, **_NORM)
        name = f"convolution {kernel}×{kernel}{', stride 2' if stride == 2 else ''}"
        yield Layer(f"{name}, {channels} → {out} at {side}²", inputs, nodes)
    for rows, length, width in PRODUCTS:
        inputs = {"x": (1, rows, length), "w": (length, width)}
        nodes = {
            "onnxruntime": _node("MatMul", inputs, ""),
            "bf16x3": _node("MatMul", inputs, gated=0),
        }
        yield Layer(f"product {rows} × {length} × {width}", inputs, nodes)
    for queries, keys, heads, depth in ATTENTION:
        width, scale = heads * depth, depth**-0.5
        inputs = {"q": (1, queries, width), "k": (1, keys, width), "v": (1, keys, width)}
        theirs: dict[str, Any] = {"num_heads": heads, "scale": scale}
        nodes = {
            "onnxruntime": _node("MultiHeadAttention", inputs, "com.microsoft", **theirs),
            "bf16x3": _node("Attention", inputs, heads=heads, scale=scale),
        }
        yield Layer(f"attention {queries} × {keys}, {heads} heads of {depth}", inputs, nodes)


def _node(operator: str, inputs: Iterable[str], domain: str = "mdrt", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), ["y"], domain=domain, **attributes)


def seconds(layer: Layer, threads: int, repeats: int) -> dict[str, float]:
    """Contender → median seconds."""
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(s, dtype=np.float32) for name, s in layer.inputs.items()}
    sessions = {name: _session(layer, node, threads) for name, node in layer.nodes.items()}
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(1 + repeats):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, feeds)
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def _session(layer: Layer, node: Any, threads: int) -> Any:
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in layer.inputs.items()
    ]
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "layer", inputs, [y])
    opsets = [helper.make_opsetid(domain, n) for domain, n in (("", 20), ("mdrt", 1))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(operator_library()))
    return ort.InferenceSession(model.SerializeToString(), options)


@click.command()
@click.option("--threads", multiple=True, type=int, help="May be given more than once.")
@click.option("--repeats", default=7, show_default=True, help="Runs after the first.")
def main(threads: Sequence[int], repeats: int) -> None:
    """Time layers of Stable Diffusion 1.4 by ONNX Runtime's operators and by mdrt's."""
    if operator_library() is None:
        raise MdrtError("the operators are not built; install a C++ compiler, then mdrt again")
    for count in threads or [os.cpu_count() or 1]:
        title = f"milliseconds, {count} threads, tiles {'in use' if has_tiles() else 'emulated'}"
        table = Table("layer", "onnxruntime", "winograd", "bf16x3", title=title)
        for layer in layers():
            found = seconds(layer, count, repeats)
            cells = (found.get(name) for name in ("onnxruntime", "winograd", "bf16x3"))
            table.add_row(layer.name, *("" if t is None else f"{1e3 * t:.1f}" for t in cells))
        Console(width=100).print(table)
