"""No node is on the CPU by accident: what ONNX Runtime tells of them, and which may be there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import mdrt
from mdrt.cli import main
from mdrt.runtime.bundle.shape_nodes import SMALL, Node, read_nodes, shape_nodes
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions import ort as sessions
from mdrt.runtime.sessions.placement import ASK, CPU, node_counts

UNET = EMBEDDED / "unet.onnx"
CUDA = "CUDAExecutionProvider"


def assigned(nodes: list[tuple[str, str, str]]) -> SimpleNamespace:
    """A session that tells of these nodes: provider, name, operator."""
    parts = [
        SimpleNamespace(
            ep_name=provider,
            get_nodes=lambda name=name, kind=kind: [
                SimpleNamespace(name=name, op_type=kind, domain="")
            ],
        )
        for provider, name, kind in nodes
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def optimised(path: Path) -> list[tuple[str, str]]:
    """Name and operator of what ONNX Runtime makes of a graph's nodes before it places them."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(ASK, "1")
    session = ort.InferenceSession(path, options, providers=[CPU])
    parts = session.get_provider_graph_assignment_info()
    return [(node.name, node.op_type) for part in parts for node in part.get_nodes()]


def as_cuda_places_them(path: Path) -> list[tuple[str, str, str]]:
    """The CPU has what reads only sizes, but for Shape, which has a kernel on the GPU."""
    nodes = optimised(path)
    sizes = shape_nodes(*read_nodes(path)) | {n for n, _ in nodes if n.startswith("Gather")}
    return [
        (CPU if name in sizes and kind != "Shape" else CUDA, name, kind) for name, kind in nodes
    ]


def test_shape_arithmetic_of_dynamic_sizes_may_stay_on_the_cpu() -> None:
    nodes = as_cuda_places_them(UNET)
    on_cpu = [kind for provider, _, kind in nodes if provider == CPU]
    assert {"Gather", "Concat", "Squeeze", "Mul"} <= set(on_cpu)  # Gather: the optimiser's own
    counts = node_counts(assigned(nodes), UNET, CUDA, ort.__version__, allow_cpu=False)
    assert counts == {CUDA: len(nodes) - len(on_cpu), CPU: len(on_cpu)}


def test_one_node_that_computes_with_pixels_is_an_error_that_names_it() -> None:
    nodes = as_cuda_places_them(UNET)
    moved = [i for i, (_, _, kind) in enumerate(nodes) if kind in ("Conv", "MatMul")][:5]
    for i in moved:
        nodes[i] = (CPU, *nodes[i][1:])
    session = assigned(nodes)
    with pytest.raises(mdrt.ProviderError) as caught:
        node_counts(session, UNET, CUDA, ort.__version__, allow_cpu=False)
    (text,) = str(caught.value).splitlines()
    assert text.startswith(f"{CUDA} leaves 5 nodes of unet.onnx to the CPU: ")
    assert all(nodes[i][1] in text for i in moved[:3])
    assert nodes[moved[3]][1] not in text
    assert caught.value.remedy == {"allow_cpu_nodes": True, "provider": "cpu"}
    counts = node_counts(session, UNET, CUDA, ort.__version__, allow_cpu=True)
    assert sum(counts.values()) == len(nodes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Gather_token_7", "Conv"),
        ("node_Gather_12", "Gather"),  # a name that the optimiser does not give
        ("", "Gather"),
        ("InsertedPrecisionFreeCast_x", "Cast"),
    ],
)
def test_a_node_that_is_not_in_the_file_is_no_shape_arithmetic(name: str, kind: str) -> None:
    with pytest.raises(mdrt.ProviderError, match=f"leaves 1 node .* 1 {kind}"):
        node_counts(assigned([(CUDA, "x", "Conv"), (CPU, name, kind)]), UNET, CUDA, "1.24.0", False)


def test_an_onnx_runtime_that_does_not_say_is_an_error() -> None:
    for silent in (SimpleNamespace(), assigned([])):
        with pytest.raises(
            mdrt.ProviderError, match=r"ONNX Runtime 1\.23\.2 does not say .* 1\.24"
        ):
            node_counts(silent, UNET, CUDA, "1.23.2", allow_cpu=False)
        assert node_counts(silent, UNET, CUDA, "1.23.2", allow_cpu=True) == {}


def node(kind: str, reads: str, writes: str, domain: str = "") -> Node:
    return Node(f"{kind} {writes}", kind, domain, tuple(reads.split(",")), tuple(writes.split(",")))


def names(*nodes: Node, constants: tuple[str, ...] = ("one",)) -> set[str]:
    return {name.partition(" ")[2] for name in shape_nodes(nodes, constants)}


def test_the_rule() -> None:
    shape = node("Shape", "pixels", "s")
    assert names(shape, node("Gather", "s,one", "h"), node("Mul", "h,h", "n")) == {"s", "h", "n"}
    # an optional input that is left out
    assert names(shape, node("Slice", "s,one,one,,one", "t")) == {"s", "t"}
    # pixels beside a size; what follows from them
    assert names(shape, node("Mul", "pixels,s", "x"), node("Add", "x,one", "y")) == {"s"}
    # a constant that is large, and constants alone: weights
    assert names(shape, node("Gather", "weight,s", "x")) == {"s"}
    assert names(node("Cast", "one", "x")) == set()
    # a small input, a large output; another operator; another domain
    assert names(shape, node("Expand", "one,s", "x"), node("Range", "s,s,one", "y")) == {"s"}
    assert names(shape, node("MatMul", "s,s", "x")) == {"s"}
    assert names(shape, node("Mul", "s,s", "x", "com.microsoft")) == {"s"}
    # a size of what was computed from sizes
    assert names(shape, node("Expand", "one,s", "x"), node("Size", "x", "z")) == {"s", "z"}


def test_a_name_that_two_nodes_bear_is_no_shape_arithmetic() -> None:
    pair = [node("Shape", "pixels", "s"), node("Conv", "pixels,one", "s")._replace(name="Shape s")]
    assert names(*pair) == set()


def test_the_reader_agrees_with_onnx(tmp_path: Path) -> None:
    made = tmp_path / "made.onnx"
    constants = [
        numpy_helper.from_array(np.zeros(size, np.float32), f"c{i}")
        for i, size in enumerate([(), (SMALL,), (SMALL + 1,), (2, 0, 300)])
    ]
    packed = TensorProto(name="packed", data_type=TensorProto.INT64)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="größe", end=2, doc_string="words"),
        helper.make_node("Clip", ["x", "", "c0"], ["y"], name="clip", domain="com.example"),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None])
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [], [*constants, packed]))
    onnx.save(model, made)
    for path in (made, *EMBEDDED.glob("*.onnx")):
        graph = onnx.load(path, load_external_data=False).graph
        nodes_of, small = read_nodes(path)
        assert nodes_of == [
            (n.name, n.op_type, n.domain, tuple(n.input), tuple(n.output)) for n in graph.node
        ]
        assert small == {c.name for c in graph.initializer if np.prod(c.dims, dtype=int) <= SMALL}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has ONNX Runtime's CPU pass for a provider on another device, but for the nodes `on_cpu`."""
    monkeypatch.setattr(sessions, "CPU", "another")

    def place(on_cpu: str = "") -> None:
        def counts(session: Any, path: Path, *rest: Any) -> dict[str, int]:
            parts = session.get_provider_graph_assignment_info()
            found = [node for part in parts for node in part.get_nodes()]
            told = [(CPU if n.op_type == on_cpu else CUDA, n.name, n.op_type) for n in found]
            return node_counts(assigned(told), path, *rest)

        monkeypatch.setattr(sessions, "node_counts", counts)

    return place


def test_a_result_and_its_record_count_the_nodes(
    elsewhere: Callable[..., None], picture_file: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> Any:
        options = [
            *arguments,
            "--classes",
            "sky",
            "--operators",
            "onnxruntime",
            "-o",
            str(tmp_path / "o"),
        ]
        return CliRunner().invoke(main, ["segment", str(picture_file), *options, "--json"])

    elsewhere()
    nodes = json.loads(run().stdout)["settings"]["nodes"]
    assert nodes.keys() == {"vae_encoder.onnx", "text_encoder.onnx", "unet.onnx"}
    assert all(counts.keys() == {CUDA} for counts in nodes.values())
    elsewhere("Conv")
    refused = run()
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "nodes of vae_encoder.onnx to the CPU: " in line
    assert "Conv" in line
    assert line.endswith("(--allow-cpu-nodes or --provider cpu)")
    allowed = json.loads(run("--allow-cpu-nodes").stdout)["settings"]["nodes"]
    assert all(allowed[name].keys() == {CUDA, CPU} for name in ("vae_encoder.onnx", "unet.onnx"))


def test_on_the_cpu_there_is_nothing_to_count(segmenter: mdrt.Segmenter, picture: Any) -> None:
    assert segmenter(picture, ["sky"]).settings["nodes"] is None
