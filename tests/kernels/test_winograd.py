"""mdrt.WinogradConv beside ONNX Runtime's own Conv, on every instruction set of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.kernels.cpu import operator_library

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(operator_library() is None, reason="built without a compiler")

# A float32 of F(4×4, 3×3) is about 1e-5 of the largest output off: its matrices reach 8 and 1/24.
TOLERANCE = 5e-5


def session(operator: str, w: np.ndarray, b: np.ndarray | None) -> ort.InferenceSession:
    """A graph of one convolution, ours or ONNX Runtime's."""
    weights = {"w": w} if b is None else {"w": w, "b": b}
    plain = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    node = onnx.helper.make_node(
        operator,
        ["x", *weights],
        ["y"],
        domain="" if operator == "Conv" else "mdrt",
        **(plain if operator == "Conv" else {}),
    )
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4)
        for name in ("x", "y")
    )
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph([node], "convolution", [x], [y], initializers)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("mdrt", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(operator_library()))
    return ort.InferenceSession(model.SerializeToString(), options)


def error(shape: tuple[int, int, int, int], out: int, bias: bool = True, seed: int = 0) -> float:
    """max|ours − theirs| / max|theirs| for an input shape and a number of output channels."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((out, shape[1], 3, 3), dtype=np.float32)
    b = random.standard_normal(out, dtype=np.float32) if bias else None
    x = random.standard_normal(shape, dtype=np.float32)
    ours, theirs = (session(name, w, b).run(None, {"x": x})[0] for name in ("WinogradConv", "Conv"))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 40),
    st.booleans(),
)
def test_it_is_the_convolution(shape: tuple[int, int, int, int], out: int, bias: bool) -> None:
    assert error(shape, out, bias) < TOLERANCE


def test_channels_by_the_hundred() -> None:
    assert error((1, 640, 32, 32), 320) < TOLERANCE


def test_one_session_takes_every_size() -> None:
    random = np.random.default_rng(1)
    w = random.standard_normal((64, 64, 3, 3), dtype=np.float32)
    ours, theirs = (session(name, w, None) for name in ("WinogradConv", "Conv"))
    for shape in ((1, 64, 32, 32), (2, 64, 8, 120), (1, 64, 32, 32)):
        x = random.standard_normal(shape, dtype=np.float32)
        a, b = (each.run(None, {"x": x})[0] for each in (ours, theirs))
        assert np.abs(a - b).max() / np.abs(b).max() < TOLERANCE


@pytest.mark.parametrize("simd", ["avx2", "plain"])
def test_narrower_processors(simd: str) -> None:
    """The instruction set is chosen when the library's first session is made: a fresh process."""
    code = (
        "import json, test_winograd as t; "
        "print(json.dumps([t.error((2, 19, 37, 45), 21), t.error((1, 64, 33, 64), 64)]))"
    )
    environment: dict[str, Any] = os.environ | {"MDRT_SIMD": simd}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, stdout=-1, check=True, text=True
    )
    assert max(json.loads(done.stdout)) < TOLERANCE
