"""What a twin's operators may take along and what they must leave: small graphs by hand, each run
as it is and as its twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from mdrt.export.twin import write_twins
from mdrt.kernels.cpu import operator_library

pytestmark = pytest.mark.skipif(operator_library() is None, reason="built without a compiler")

SHAPE = (1, 128, 32, 32)
RANDOM = np.random.default_rng(0)


class Builder:
    """A graph with one input x; weights lie in a file of their own, as export writes them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def numbers(self, *shape: int, half: bool = False) -> str:
        array = RANDOM.standard_normal(shape, dtype=np.float32) / 8
        if not half:
            return self.weight(array)
        return self.add("Cast", self.weight(array.astype(np.float16)), to=onnx.TensorProto.FLOAT)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def norm(self, x: str, ones: float = 1.0) -> str:
        grouped = self.add("Reshape", x, self.weight(np.array([0, 8, -1])))
        scale, bias = np.full(8, ones, np.float32), np.zeros(8, np.float32)
        normal = self.add("InstanceNormalization", grouped, self.weight(scale), self.weight(bias))
        whole = self.add("Reshape", normal, self.add("Shape", x))
        return self.add(
            "Add", self.add("Mul", whole, self.numbers(128, 1, 1)), self.numbers(128, 1, 1)
        )

    def silu(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def conv(self, x: str, half: bool = False) -> str:
        weights = self.numbers(128, 128, 3, 3, half=half)
        return self.add("Conv", x, weights, pads=[1] * 4, kernel_shape=[3, 3])

    def write(self, path: Path, outputs: list[str], shape: tuple[int, ...] = SHAPE) -> None:
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))
        y = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", [x], y, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def twins(
    builder: Builder, folder: Path, *outputs: str, shape: tuple[int, ...] = SHAPE
) -> dict[str, list[Any]]:
    """Operators → the twin's nodes; every twin gives what the graph gives."""
    path = folder / "unet.onnx"
    builder.write(path, list(outputs), shape)
    x = RANDOM.standard_normal(shape, dtype=np.float32)
    expected = ort.InferenceSession(path).run(None, {"x": x})
    found = {}
    for twin in write_twins(path, {"x": shape}):
        options = ort.SessionOptions()
        options.register_custom_ops_library(str(operator_library()))
        session = ort.InferenceSession(twin, options)
        assert [output.name for output in session.get_outputs()] == list(outputs)
        for ours, theirs in zip(session.run(None, {"x": x}), expected, strict=True):
            assert np.abs(ours - theirs).max() < 5e-5 * np.abs(theirs).max()
        nodes = onnx.load(twin, load_external_data=False).graph.node
        found[twin.name.split(".")[1]] = list(nodes)
    assert found.keys() == {"winograd", "bf16x3"}
    return found


def of_type(nodes: list[Any], operator: str) -> list[Any]:
    return [node for node in nodes if node.op_type == operator]


def test_a_resnet_is_two_operators(tmp_path: Path) -> None:
    g = Builder()
    first = g.conv(g.silu(g.norm("x")))
    y = g.add("Add", "x", g.conv(g.silu(g.norm(first))))
    for nodes in twins(g, tmp_path, y).values():
        assert [node.domain for node in nodes] == ["mdrt", "mdrt"]
        assert nodes[1].input[5] == "x"


def test_a_norm_without_activation_goes_along(tmp_path: Path) -> None:
    g = Builder()
    for nodes in twins(g, tmp_path, g.conv(g.norm("x"))).values():
        assert len(nodes) == 1


@pytest.mark.parametrize("between", ["norm", "silu", "convolution"])
def test_what_has_another_use_stays(tmp_path: Path, between: str) -> None:
    g = Builder()
    norm = g.norm("x")
    silu = g.silu(norm)
    convolution = g.conv(silu)
    y = g.add("Add", convolution, "x")
    other = g.add("Neg", {"norm": norm, "silu": silu, "convolution": convolution}[between])
    for nodes in twins(g, tmp_path, y, other).values():
        kept = of_type(nodes, "InstanceNormalization"), of_type(nodes, "Add")
        assert [bool(k) for k in kept] == [between != "convolution", True]


@pytest.mark.parametrize("between", ["silu", "convolution"])
def test_what_is_an_output_stays(tmp_path: Path, between: str) -> None:
    g = Builder()
    silu = g.silu(g.norm("x"))
    convolution = g.conv(silu)
    y = g.add("Add", convolution, "x")
    twins(g, tmp_path, y, {"silu": silu, "convolution": convolution}[between])


def test_an_instance_norm_with_weights_of_its_own_stays(tmp_path: Path) -> None:
    g = Builder()
    for nodes in twins(g, tmp_path, g.conv(g.norm("x", ones=2.0))).values():
        assert of_type(nodes, "InstanceNormalization")


def test_a_convolution_added_to_itself(tmp_path: Path) -> None:
    g = Builder()
    convolution = g.conv("x")
    twins(g, tmp_path, g.add("Add", convolution, convolution))


def test_two_convolutions_added(tmp_path: Path) -> None:
    """One takes the other along, whichever comes first."""
    g = Builder()
    y = g.add("Add", g.conv("x"), g.conv(g.silu(g.norm("x"))))
    for nodes in twins(g, tmp_path, y).values():
        assert len(nodes) == 2


def test_weights_of_half_the_size_are_read_as_they_are(tmp_path: Path) -> None:
    g = Builder()
    for nodes in twins(g, tmp_path, g.conv(g.silu(g.norm("x")), half=True)).values():
        assert not of_type(nodes, "Cast")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_products_take_bias_gate_and_sum_along(tmp_path: Path, swapped: bool, half: bool) -> None:
    g = Builder()
    flat = g.add("Reshape", g.conv("x"), g.weight(np.array([1, 1024, 128])))
    up = g.add("Add", g.add("MatMul", flat, g.numbers(128, 256, half=half)), g.numbers(256))
    a, b = g.add("Split", up, outputs=2, axis=2, num_outputs=2)
    parts = [g.add("Gelu", b), a] if swapped else [a, g.add("Gelu", b)]
    down = g.add("MatMul", g.add("Mul", *parts), g.numbers(128, 128))
    y = g.add("Add", flat, g.add("Add", g.numbers(128), down))
    found = twins(g, tmp_path, y)
    gates = of_type(found["winograd"], "Gate")
    assert [len(node.input) for node in gates] == [2]  # and its bias
    nodes = found["bf16x3"]
    assert [node.op_type for node in nodes if node.domain == "mdrt"] == [
        "WinogradConv",
        "MatMul",
        "MatMul",
    ]
    assert not of_type(nodes, "Add")
    assert not of_type(nodes, "Gelu")


def test_a_gate_of_the_first_half_is_another_function(tmp_path: Path) -> None:
    g = Builder()
    flat = g.add("Reshape", g.conv("x"), g.weight(np.array([1, 1024, 128])))
    a, b = g.add(
        "Split", g.add("MatMul", flat, g.numbers(128, 256)), outputs=2, axis=2, num_outputs=2
    )
    y = g.add("Mul", b, g.add("Gelu", a))
    assert of_type(twins(g, tmp_path, y)["bf16x3"], "Gelu")


def test_an_uneven_stride_or_a_large_kernel_stays(tmp_path: Path) -> None:
    g = Builder()
    odd = g.add("Conv", g.conv("x"), g.numbers(16, 128, 3, 3), strides=[2, 1])
    y = g.add("Conv", odd, g.numbers(8, 16, 5, 5))
    nodes = twins(g, tmp_path, y)["bf16x3"]
    assert [(n.domain, n.op_type) for n in nodes] == [("mdrt", "WinogradConv")] + [("", "Conv")] * 2


def test_small_and_strided_convolutions_are_bfloat16_products(tmp_path: Path) -> None:
    g = Builder()
    strided = g.add("Conv", g.conv(g.silu(g.norm("x"))), g.numbers(128, 128, 3, 3), strides=[2, 2])
    y = g.add("Conv", strided, g.numbers(8, 128, 1, 1))
    found = twins(g, tmp_path, y)
    assert len(of_type(found["bf16x3"], "Conv")) == len(of_type(found["winograd"], "Conv")) == 2
    assert {node.domain for node in of_type(found["bf16x3"], "Conv")} == {"mdrt"}
