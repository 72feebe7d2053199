"""Engines built for real: tensorrt-rtx needs no GPU to build, only to run them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from rich.progress import Progress

from mdrt.cli import main
from mdrt.cli.progress import PhaseBars
from mdrt.export.engines import build as build_module
from mdrt.export.engines.build import build_engines
from mdrt.export.engines.options import EngineOptions
from mdrt.export.engines.profiles import parse_profiles
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle, record_file, write_manifest
from mdrt.runtime.bundle.plan import PlanRecord, Range, Shapes, check_plans, plan_name, sidecar_name
from mdrt.runtime.errors import BundleError, EngineError
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.library import Library, open_library

pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx is not installed (`pip install tensorrt-rtx`)"
)


@pytest.fixture(scope="module")
def library() -> Library:
    return open_library("tensorrt-rtx")


def build(bundle: Path, library: Library, **options: Any) -> dict[str, PlanRecord]:
    return build_engines(load_bundle(bundle), library, EngineOptions(**options))


def plans(bundle: Path) -> set[str]:
    return {path.name for path in bundle.iterdir() if ".plan" in path.name}


GRAPHS = [g for g in graph_names(load_bundle(EMBEDDED).manifest) if g != "unet.encoder.onnx"]
ALL = {name(graph) for graph in GRAPHS for name in (plan_name, sidecar_name)}


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory, library: Library) -> Path:
    """The embedded model, dynamic in batch and size."""
    bundle = shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("fp32") / "bundle")
    profile = parse_profiles(["batch=1:2:3", "size=128:256:320"])
    build(
        bundle,
        library,
        profile=profile,
        workspace=512,
        optimization_level=2,
        compute_capabilities=("8.6", "12.0"),
        weight_streaming=True,
    )
    return bundle


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory, storybook: Path) -> tuple[Path, str]:
    """The embedded model exported again in half precision, by the command that builds too."""
    pytest.importorskip("torch")
    bundle = tmp_path_factory.mktemp("fp16") / "bundle"
    arguments = (
        f"export {storybook} -o {bundle} --precision fp16 --attention-strides 16 "
        "--feature-strides 16 --profile batch=2 --json --trt=tensorrt-rtx"
    )
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 0, result.output
    return bundle, result.stdout


def records(bundle: Path) -> Mapping[str, PlanRecord]:
    return check_plans(bundle, load_bundle(bundle).manifest, "unet.plan")


def test_a_plan_and_a_sidecar_beside_each_graph(fp32: Path) -> None:
    assert plans(fp32) == ALL
    assert not list(fp32.glob(".plans*"))


def test_every_field_of_a_sidecar(fp32: Path, library: Library) -> None:
    record = records(fp32)["unet.onnx"]
    manifest = load_bundle(fp32).manifest
    assert {field.name for field in dataclasses.fields(record)} == set(
        json.loads((fp32 / "unet.plan.json").read_text())
    )
    assert record.schema_version == 2
    assert record.graph == "unet.onnx"
    assert record.sources == {
        name: hashlib.sha256((fp32 / name).read_bytes()).hexdigest()
        for name in ("unet.onnx", "unet.onnx.data")
    }
    assert record.library == "tensorrt-rtx"
    assert record.library_version == library.version == library.module.__version__
    assert record.created_by == manifest.created_by["mdrt"]
    assert record.precision == "fp32"
    assert record.profile == {"batch": Range(1, 2, 3), "size": Range(128, 256, 320)}
    assert record.shapes == {
        "sample": Shapes((1, 8, 8, 8), (2, 8, 16, 16), (3, 8, 20, 20)),
        "timestep": Shapes((1,), (2,), (3,)),
        "encoder_hidden_states": Shapes((1, 40, 128), (2, 40, 128), (3, 40, 128)),
    }
    assert record.compute_capabilities == ("8.6", "12.0")
    assert record.options.workspace == 512 << 20
    assert record.options.optimization_level == 2
    assert record.options.weight_streaming
    assert not record.options.stripped
    assert record.layers > record.kernels.count > 100
    assert record.plan == record_file(fp32 / "unet.plan")
    assert 0 < record.seconds < 600
    assert bool(record.proof.gpu) != bool(record.proof.reason)  # proved, or why not


def test_the_shapes_are_those_of_the_graphs(fp32: Path) -> None:
    """What is fixed in a graph is what its profile says, and every input has a range."""
    for graph, record in records(fp32).items():
        model = onnx.load(fp32 / graph, load_external_data=False)
        sizes = {
            value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            for value in model.graph.input
        }
        assert sizes.keys() == record.shapes.keys()
        for name, shapes in record.shapes.items():
            for fixed, *span in zip(sizes[name], shapes.min, shapes.opt, shapes.max, strict=True):
                assert span == ([fixed] * 3 if fixed else sorted(span))


def test_half_precision_is_the_graphs_own(fp16: tuple[Path, str], fp32: Path) -> None:
    half, single = (records(bundle)["unet.onnx"] for bundle in (fp16[0], fp32))
    assert half.precision == "fp16"
    assert half.compute_capabilities == ()
    assert half.profile == {"batch": Range(2, 2, 2), "size": Range(384, 384, 384)}
    assert half.plan.bytes < single.plan.bytes


def test_every_half_precision_attention_is_one_kernel(fp16: tuple[Path, str], fp32: Path) -> None:
    """Logits that are outputs are a product of their own beside it; float32 is never fused."""
    half, single = (records(bundle)["unet.onnx"].kernels for bundle in (fp16[0], fp32))
    assert (half.fused, half.split) == (5, 0)  # the last layer's softmax reaches no output
    assert (single.fused, single.split) == (0, 5)


def test_export_prints_one_document(fp16: tuple[Path, str]) -> None:
    bundle, printed = fp16
    values = json.loads(printed)
    assert all(row["passed"] for row in values["proof"])
    assert values["engines"] == [
        json.loads((bundle / sidecar_name(graph)).read_text()) for graph in GRAPHS
    ]


def test_build_prints_a_row_an_engine(bundle: Path) -> None:
    result = CliRunner().invoke(main, ["build", str(bundle), "--library", "tensorrt-rtx"])
    assert result.exit_code == 0, result.output
    for graph in GRAPHS:
        assert graph.removesuffix(".onnx") in result.stdout
    assert "batch 1:1:4, size 384" in result.stdout
    assert plans(bundle) == ALL


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"compute_capabilities": ("8.7",)}, "expected some of 8.0, 8.6, 8.9, 12.0"),
        ({"compute_capabilities": ("9.0",)}, "no kernels for data-centre GPUs"),
        ({"compute_capabilities": ("x",)}, "cannot target compute capability x"),
        ({"profile": {"size": Range(100, 100, 100)}}, "expected multiples of 64 pixels"),
        ({"timing_cache": Path("cache")}, "build with library tensorrt"),
    ],
)
def test_what_is_refused_leaves_nothing(
    bundle: Path, library: Library, options: dict[str, Any], part: str
) -> None:
    before = sorted(bundle.iterdir())
    with pytest.raises(EngineError) as caught:
        build(bundle, library, **options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(bundle.iterdir()) == before


def test_a_graph_the_library_cannot_read(bundle: Path, library: Library) -> None:
    node = onnx.helper.make_node("NoOperator", [], ["latent"])
    latent = onnx.helper.make_tensor_value_info("latent", onnx.TensorProto.FLOAT, [1])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [latent])),
        bundle / "vae_encoder.onnx",
    )
    manifest = load_bundle(EMBEDDED).manifest
    files = {**manifest.files, "vae_encoder.onnx": record_file(bundle / "vae_encoder.onnx")}
    write_manifest(bundle, dataclasses.replace(manifest, files=files))
    checked = load_bundle(bundle)
    with pytest.raises(EngineError, match=r"cannot read vae_encoder\.onnx: \S") as caught:
        build_engines(checked, library, EngineOptions())
    assert "\n" not in str(caught.value)
    assert not plans(bundle)


def test_a_graph_that_changes_meanwhile(
    bundle: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sidecar would vouch for another graph than the engine's."""
    checked = load_bundle(bundle)

    def replace(*_arguments: Any) -> None:
        shutil.copy(EMBEDDED / "unet.onnx", bundle / "unet.onnx")
        return real(*_arguments)

    real = build_module.build_engine
    monkeypatch.setattr(build_module, "build_engine", replace)
    with pytest.raises(BundleError, match=r"unet\.onnx changed while it was read"):
        build_engines(checked, library, EngineOptions())
    assert not plans(bundle)


def test_a_graph_the_library_cannot_build(bundle: Path, library: Library) -> None:
    """A profile whose text input is longer than the graph's fixed length."""
    checked = load_bundle(bundle)
    (text,) = checked.manifest.texts
    tokens = dataclasses.replace(text.tokens, max_length=41)
    longer = (dataclasses.replace(text, tokens=tokens),)
    manifest = dataclasses.replace(checked.manifest, texts=longer)
    wrong = dataclasses.replace(checked, manifest=manifest)
    with pytest.raises(EngineError, match=r"cannot build text_encoder\.onnx: \S"):
        build_engines(wrong, library, EngineOptions())
    assert not plans(bundle)


def test_progress_is_the_builders(bundle: Path, library: Library) -> None:
    """Phases appear with their steps while it builds, and are gone when it is done."""
    seen: dict[str, int | None] = {}
    under_way: list[str] = []

    class Spy(PhaseBars):
        def begin(self, name: str, steps: int | None) -> None:
            seen[name] = steps
            under_way.append(name)
            super().begin(name, steps)

        def end(self, name: str) -> None:
            under_way.remove(name)
            super().end(name)

    bars = Progress(disable=True)
    build_engines(load_bundle(bundle), library, EngineOptions(), Spy(bars))
    assert len(seen) > 1
    assert all(steps is not None and steps > 0 for steps in seen.values())
    assert not under_way
    assert not bars.tasks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_can_be_stopped(bundle: Path, number: signal.Signals) -> None:
    # a shell's background jobs ignore SIGINT, and what they start does too
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = f"{heard}from mdrt.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command, "build", bundle, "--library", "tensorrt-rtx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(bundle.glob(".mdrt-*/text_encoder.plan.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert not [path for path in bundle.iterdir() if ".plan" in path.name]
