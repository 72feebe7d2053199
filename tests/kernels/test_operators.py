"""mdrt's operators beside ONNX Runtime's own, on every instruction set of this machine.

The reference is the same function in ONNX's standard operators, run in float32 by ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.kernels.cpu import has_tiles, operator_library

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(operator_library() is None, reason="built without a compiler")

# A float32 of F(4×4, 3×3) is about 1e-5 of the largest output off: its matrices reach 8 and 1/24.
# Two bfloat16 hold 16 bits of a number, 1.5e-5 of it, and errors of a sum mostly cancel.
TOLERANCE = 5e-5
NORM: dict[str, Any] = {"groups": 1, "epsilon": 0.0, "silu": 0}
PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


class Graph:
    """A graph under construction; constants are named after what they are for."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.feeds: dict[str, np.ndarray] = {}

    def value(self, array: np.ndarray) -> str:
        name = f"v{len(self.feeds)}"
        self.feeds[name] = array
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(
            onnx.helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        )
        return name

    def session(self) -> ort.InferenceSession:
        types = {"float32": 1, "int64": 7, "float16": 10}
        inputs = [
            onnx.helper.make_tensor_value_info(name, types[array.dtype.name], [None] * array.ndim)
            for name, array in self.feeds.items()
        ]
        y = onnx.helper.make_tensor_value_info(self.nodes[-1].output[0], 1, None)
        graph = onnx.helper.make_graph(self.nodes, "graph", inputs, [y])
        opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("mdrt", 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(str(operator_library()))
        return ort.InferenceSession(model.SerializeToString(), options)

    def run(self) -> np.ndarray:
        result: np.ndarray = self.session().run(None, self.feeds)[0]
        return result


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max|ours − theirs| / max|theirs|."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def convolution(
    shape: Sequence[int],
    out: int,
    operator: str = "Conv",
    kernel: int = 3,
    stride: int = 1,
    pads: Sequence[int] | None = None,
    bias: bool = True,
    groups: int = 0,
    silu: bool = False,
    added: str = "",
) -> float:
    """How far one of our convolutions is from norm, activation, Conv and Add one by one.

    `groups` 0: no norm; `added`: "whole", "channel" or nothing.
    """
    pads = [kernel // 2] * 4 if pads is None else pads
    x, w = numbers(*shape), numbers(out, shape[1], kernel, kernel, seed=1)
    # a mean far from zero: how a norm is summed shows there
    x += 3
    b = numbers(out, seed=2)
    gamma, beta = numbers(shape[1], seed=3), numbers(shape[1], seed=4)
    ours, theirs = Graph(), Graph()
    parts = [theirs.value(x), theirs.value(w), *([theirs.value(b)] if bias else [])]
    if groups:
        one = [theirs.value(a) for a in (np.ones(groups, "f"), np.zeros(groups, "f"))]
        grouped = theirs.add("Reshape", parts[0], theirs.value(np.array([0, groups, -1])))
        normal = theirs.add("InstanceNormalization", grouped, *one, epsilon=1e-5)
        whole = theirs.add("Reshape", normal, theirs.add("Shape", parts[0]))
        scaled = theirs.add("Mul", whole, theirs.value(gamma[:, None, None]))
        parts[0] = theirs.add("Add", scaled, theirs.value(beta[:, None, None]))
    if silu:
        parts[0] = theirs.add("Mul", parts[0], theirs.add("Sigmoid", parts[0]))
    result = theirs.add("Conv", *parts, pads=list(pads), strides=[stride] * 2)
    inputs = [ours.value(x), ours.value(w), ours.value(b) if bias else "", "", "", ""]
    if groups:
        inputs[3:5] = ours.value(gamma), ours.value(beta)
    if added:
        expected = theirs.run().shape
        more = numbers(*expected[: 4 if added == "whole" else 2], seed=5)
        more = more if added == "whole" else more[:, :, None, None]
        result = theirs.add("Add", result, theirs.value(more))
        inputs[5] = ours.value(more)
    geometry = (
        {}
        if operator == "WinogradConv"
        else {"stride": stride, **dict(zip(PADS, pads, strict=True))}
    )
    norm = {"groups": groups or 1, "epsilon": 1e-5, "silu": int(silu)}
    ours.add(operator, *inputs, domain="mdrt", **geometry, **norm)
    return difference(ours.run(), theirs.run())


def product(
    shape: Sequence[int], width: int, bias: bool = False, gated: bool = False, added: bool = False
) -> float:
    x, w = numbers(*shape), numbers(shape[-1], width * (2 if gated else 1), seed=1)
    b, more = numbers(w.shape[1], seed=2), numbers(*shape[:-1], width, seed=3)
    ours, theirs = Graph(), Graph()
    result = theirs.add("MatMul", theirs.value(x), theirs.value(w))
    if bias:
        result = theirs.add("Add", result, theirs.value(b))
    if gated:
        sides = theirs.value(np.array([0, width, 2 * width]))
        axis = theirs.value(np.array([len(shape) - 1]))
        cut = [
            theirs.add("Slice", sides, theirs.value(np.array([i])), theirs.value(np.array([i + 1])))
            for i in range(3)
        ]
        a, b_ = (theirs.add("Slice", result, cut[i], cut[i + 1], axis) for i in range(2))
        result = theirs.add("Mul", a, theirs.add("Gelu", b_))
    if added:
        theirs.add("Add", result, theirs.value(more))
    inputs = [ours.value(x), ours.value(w), ours.value(b) if bias else ""]
    inputs += [ours.value(more)] if added else []
    ours.add("MatMul", *inputs, domain="mdrt", gated=int(gated))
    return difference(ours.run(), theirs.run())


def gate(shape: Sequence[int], bias: bool) -> float:
    x, b = numbers(*shape, 2 * 37), numbers(2 * 37, seed=1)
    ours, theirs = Graph(), Graph()
    result = theirs.value(x)
    if bias:
        result = theirs.add("Add", result, theirs.value(b))
    sides = theirs.value(np.array([37, 37]))
    theirs.nodes.append(
        onnx.helper.make_node("Split", [result, sides], ["a", "b"], axis=len(shape))
    )
    theirs.add("Mul", "a", theirs.add("Gelu", "b"))
    ours.add("Gate", ours.value(x), ours.value(b) if bias else "", domain="mdrt")
    return difference(ours.run(), theirs.run())


def attention(
    batch: int, queries: int, keys: int, heads: int, depth: int, scale: float, size: float = 1.0
) -> float:
    q = numbers(batch, queries, heads * depth) * np.float32(size)
    k, v = (numbers(batch, keys, heads * depth, seed=seed) for seed in (1, 2))
    ours, theirs = Graph(), Graph()
    split = theirs.value(np.array([0, 0, heads, depth]))
    parts = [theirs.add("Reshape", theirs.value(array), split) for array in (q, k, v)]
    of_q, of_k, of_v = (
        theirs.add("Transpose", part, perm=perm)
        for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    logits = theirs.add("MatMul", of_q, of_k)
    logits = theirs.add("Mul", logits, theirs.value(np.array([scale], "f")))
    mixed = theirs.add("MatMul", theirs.add("Softmax", logits, axis=-1), of_v)
    together = theirs.add("Transpose", mixed, perm=[0, 2, 1, 3])
    theirs.add("Reshape", together, theirs.value(np.array([0, 0, heads * depth])))
    inputs = [ours.value(array) for array in (q, k, v)]
    ours.add("Attention", *inputs, domain="mdrt", heads=heads, scale=scale)
    return difference(ours.run(), theirs.run())


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 40), st.booleans(), st.sampled_from(["", "whole", "channel"]))
def test_winograd_is_the_convolution(
    shape: tuple[int, int, int, int], out: int, bias: bool, added: str
) -> None:
    assert convolution(shape, out, "WinogradConv", bias=bias, added=added) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(
    SHAPES,
    st.integers(1, 70),
    st.sampled_from([(1, 1), (3, 1), (3, 2)]),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.booleans(),
    st.sampled_from(["", "whole", "channel"]),
)
def test_bf16x3_is_the_convolution(
    shape: tuple[int, int, int, int],
    out: int,
    geometry: tuple[int, int],
    pads: list[int],
    bias: bool,
    added: str,
) -> None:
    kernel, stride = geometry
    if min(shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3]) < kernel:
        pads = [1, 1, 1, 1]
    error = convolution(shape, out, kernel=kernel, stride=stride, pads=pads, bias=bias, added=added)
    assert error < TOLERANCE


@pytest.mark.parametrize("operator", ["WinogradConv", "Conv"])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 12, 33, 47), (1, 320, 16, 16), (1, 64, 100, 130)])
def test_norms_before_convolutions(operator: str, silu: bool, shape: tuple[int, ...]) -> None:
    error = convolution(shape, 40, operator, groups=4, silu=silu, added="whole")
    assert error < TOLERANCE


@pytest.mark.parametrize("operator", ["WinogradConv", "Conv", "MatMul"])
def test_weights_may_be_float16(operator: str) -> None:
    """They give what the same weights in float32 do, bit for bit; subnormal ones too."""
    shape = (70, 50) if operator == "MatMul" else (40, 70, 3, 3)
    w = numbers(*shape, seed=1).astype(np.float16)
    w.flat[::7] *= np.float16(1e-6)
    x = numbers(1, 300, 70) if operator == "MatMul" else numbers(1, 70, 33, 40)
    attributes: dict[str, Any] = {"gated": 0} if operator == "MatMul" else dict(NORM)
    if operator == "Conv":
        attributes |= {"stride": 1, **dict.fromkeys(PADS, 1)}
    found = []
    for weights in (w, w.astype(np.float32)):
        graph = Graph()
        graph.add(operator, graph.value(x), graph.value(weights), domain="mdrt", **attributes)
        found.append(graph.run())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("operator", ["WinogradConv", "Conv"])
def test_channels_by_the_hundred(operator: str) -> None:
    assert convolution((1, 640, 32, 32), 320, operator) < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 300), st.integers(1, 130)),
    st.integers(1, 90),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_bf16x3_is_the_product(
    shape: tuple[int, int, int], width: int, bias: bool, gated: bool, added: bool
) -> None:
    assert product(shape, width, bias, gated, added) < TOLERANCE


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (3, 5, 7)])
def test_gates(shape: tuple[int, ...], bias: bool) -> None:
    assert gate(shape, bias) < 1e-6


def test_long_sums() -> None:
    assert product((1, 64, 5120), 64, bias=True, added=True) < TOLERANCE
    assert product((1, 400, 2100), 33, gated=True) < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 300),
    st.integers(1, 600),
    st.integers(1, 3),
    st.sampled_from([1, 8, 33, 40, 64, 160]),
)
def test_bf16x3_is_the_attention(
    batch: int, queries: int, keys: int, heads: int, depth: int
) -> None:
    assert attention(batch, queries, keys, heads, depth, depth**-0.5) < TOLERANCE


def test_attention_with_large_logits() -> None:
    """exp of the logits themselves would overflow."""
    assert attention(1, 64, 500, 2, 40, 1.0, size=30.0) < 5e-3  # of logits near 1000, 1.5e-5 each


def test_one_session_takes_every_size() -> None:
    w = numbers(64, 64, 3, 3)
    for operator, more in (("WinogradConv", {}), ("Conv", {"stride": 1, **dict.fromkeys(PADS, 1)})):
        ours, theirs = Graph(), Graph()
        ours.add(
            operator, ours.value(numbers(1, 64, 4, 4)), ours.value(w), domain="mdrt", **more, **NORM
        )
        theirs.add("Conv", theirs.value(numbers(1, 64, 4, 4)), theirs.value(w), pads=[1] * 4)
        a, b = ours.session(), theirs.session()
        for shape in ((1, 64, 32, 32), (2, 64, 8, 120), (1, 64, 32, 32)):
            feeds = {"v0": numbers(*shape), "v1": w}
            assert difference(a.run(None, feeds)[0], b.run(None, feeds)[0]) < TOLERANCE


def test_threads_share_an_operator() -> None:
    """Two runs of one session at once, scratch memory lent to both."""
    from concurrent.futures import ThreadPoolExecutor

    graph = Graph()
    w = numbers(64, 64, 3, 3)
    more: dict[str, Any] = {"stride": 1, **dict.fromkeys(PADS, 1), **NORM}
    graph.add("Conv", graph.value(numbers(1, 64, 4, 4)), graph.value(w), domain="mdrt", **more)
    session = graph.session()
    pictures = [numbers(1, 64, 40, 40 + i, seed=i) for i in range(8)]
    alone = [session.run(None, {"v0": x, "v1": w})[0] for x in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: session.run(None, {"v0": x, "v1": w})[0], pictures * 4))
    for i, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[i % len(pictures)])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: convolution((1, 4, 8, 8), 4, kernel=5, pads=[2] * 4), "a 3×3 kernel"),
        (lambda: convolution((1, 4, 8, 8), 4, groups=3), "whole groups"),
        (lambda: convolution((1, 4, 8, 8), 4, "WinogradConv", kernel=1), "a 3×3 kernel"),
        (lambda: attention(1, 4, 4, 3, 5, 1.0) and _attention_of(2), "heads"),
        (lambda: attention(1, 4, 4, 1, 1025, 1.0), "heads of at most 1024"),
    ],
)
def test_what_an_operator_cannot_do_is_an_error(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        make()


def _attention_of(heads: int) -> None:
    graph = Graph()
    inputs = [graph.value(numbers(1, 4, 15)) for _ in range(3)]
    graph.add("Attention", *inputs, domain="mdrt", heads=heads, scale=1.0)
    graph.run()


def test_a_failed_allocation_is_an_error_and_no_end() -> None:
    """In a process that may have no more memory than it has."""
    code = """
import resource, numpy as np, test_operators as t
graph = t.Graph()
x, w = np.zeros((1, 2048, 64, 64), "f"), np.zeros((32, 2048, 3, 3), "f")
more = dict(stride=1, **dict.fromkeys(t.PADS, 1), **t.NORM)
graph.add("ReduceMax", graph.add("Conv", graph.value(x), graph.value(w), domain="mdrt", **more))
session = graph.session()
free = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (free + MORE, hard))
try:
    session.run(None, graph.feeds)
except Exception as error:
    print("said", error)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""
    if sys.platform != "linux":
        pytest.skip("limits a process's memory as Linux does")
    # enough for the output, half a megabyte, but not for the 36 that the operator packs beside it
    done = _in_a_process(code.replace("MORE", str(16 << 20)))
    assert "out of memory" in done


@pytest.mark.parametrize("simd", ["avx2", "plain"])
def test_slower_processors(simd: str) -> None:
    """The instruction set is chosen when an operator is made: a fresh process."""
    code = """
import json, test_operators as t
print(json.dumps([
    t.convolution((2, 19, 37, 45), 21, "WinogradConv"),
    t.convolution((1, 64, 33, 64), 64, "WinogradConv", groups=8, silu=True, added="channel"),
    t.convolution((2, 19, 37, 45), 21, groups=19, silu=True, added="whole"),
    t.convolution((1, 64, 70, 66), 64, stride=2),
    t.product((1, 300, 70), 50, bias=True, gated=True, added=True),
    t.gate((2, 40), True),
    t.attention(1, 70, 300, 2, 40, 0.2),
]))
"""
    assert max(json.loads(_in_a_process(code, MDRT_SIMD=simd))) < TOLERANCE


def test_tiles_are_used_where_they_are() -> None:
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    assert has_tiles() == ("amx_bf16" in flags)


def _in_a_process(code: str, **variables: str) -> str:
    environment: dict[str, Any] = os.environ | variables
    paths = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, stdout=-1, check=True, text=True).stdout


CHAIN = """
import sys
import numpy as np
import onnxruntime as ort
from onnx import helper

library, operator, known = sys.argv[1], sys.argv[2], sys.argv[3] == "known"
shape, w = (1, 8, 1024, 1024), np.random.default_rng(0).standard_normal((8, 8, 3, 3), "f") / 8
norm = dict(groups=1, epsilon=0.0, silu=0)
if operator == "Conv":
    norm |= dict(stride=1, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
def conv(x, y, added=""):
    return helper.make_node(operator, [x, "w", "", "", "", added], [y], domain="mdrt", **norm)
nodes = [conv("x", "a"), conv("a", "b"), conv("b", "c", "a"), conv("c", "d"), conv("d", "e", "c")]
nodes += [helper.make_node("ReduceSum", ["e", "axes"], ["sums"], keepdims=0)]
info = helper.make_tensor_value_info
graph = helper.make_graph(
    nodes, "g", [info("x", 1, shape)], [info("sums", 1, None)],
    [helper.make_tensor("w", 1, w.shape, w.ravel()), helper.make_tensor("axes", 7, [1], [3])],
    value_info=[info(name, 1, shape) for name in "abcde"] if known else [],
)
opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mdrt", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
options = ort.SessionOptions()
options.register_custom_ops_library(library)
options.enable_mem_pattern = False
session = ort.InferenceSession(model.SerializeToString(), options)
x = np.random.default_rng(1).standard_normal(shape, "f")
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
before = peak()
sums = session.run(None, {"x": x})[0]
print(peak() - before, *sums.ravel()[:: 997])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory by /proc")
@pytest.mark.parametrize("operator", ["Conv", "WinogradConv"])
def test_a_sum_is_written_where_it_came_from(operator: str) -> None:
    """A residual is read for the last time where it is added: 32 MB less of a graph that keeps two
    such maps, and the same values."""

    def run(known: str) -> tuple[int, list[float]]:
        command = [sys.executable, "-P", "-c", CHAIN, str(operator_library()), operator, known]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        taken, *sums = done.stdout.split()
        return int(taken), list(map(float, sums))

    (apart, expected), (together, found) = run("unknown"), run("known")
    assert found == expected
    assert apart - together > 24e6
