"""Engines beside their graphs, on the stand-ins that compute."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from standins import tensorrt

from mdrt.cli.tables import engine_table
from mdrt.export.engines import build as building
from mdrt.export.engines.build import build_engines
from mdrt.export.engines.builder import Engine
from mdrt.export.engines.options import EngineOptions
from mdrt.export.engines.profiles import parse_profiles
from mdrt.export.engines.proof import find_gpu, prove_engine
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import BuildOptions, Kernels, Proof, check_plans, plan_name
from mdrt.runtime.errors import EngineError
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.library import Library

GRAPHS = [g for g in graph_names(load_bundle(EMBEDDED).manifest) if g != "unet.encoder.onnx"]

PROFILE = parse_profiles(["batch=1:2:3", "size=128:256:256"])


def prove(bundle: Path, graph: str = "unet.onnx", **changes: object) -> Proof:
    tensorrt.write_engines(bundle, profile=PROFILE)
    checked = load_bundle(bundle)
    record = replace(check_plans(bundle, checked.manifest, "unet.plan")[graph], **changes)  # type: ignore[arg-type]
    gpu = find_gpu(record.compute_capabilities)
    assert not isinstance(gpu, str)
    return prove_engine(checked, bundle / plan_name(graph), record, gpu)


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_engine_that_is_its_graph(gpu: ModuleType, bundle: Path, graph: str) -> None:
    proof = prove(bundle, graph)
    assert proof.gpu
    assert proof.outputs >= 3
    assert proof.error < 1e-5 < proof.tolerance
    assert proof.reason == ""


def change_outputs(
    monkeypatch: pytest.MonkeyPatch, change: object, rows: int | None = None
) -> None:
    """Let engines write something else, at batches of `rows` alone or at all."""
    run = tensorrt.Context._run

    def wrong(self, shapes, addresses, scratch):  # type: ignore[no-untyped-def]
        run(self, shapes, addresses, scratch)
        if rows in (None, next(iter(shapes.values()))[0]):
            whole = shapes | self.engine.outputs_for(shapes)
            name = next(iter(self.engine.outputs))
            count = int(np.prod(whole[name]))
            change(np.ctypeslib.as_array(tensorrt._bytes(addresses[name], 4 * count)).view("f4"))

    monkeypatch.setattr(tensorrt.Context, "_run", wrong)


def test_values_that_are_off(
    gpu: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_outputs(monkeypatch, lambda values: values.__imul__(1.01))
    with pytest.raises(EngineError, match=r"engine of unet\.onnx at .*differs from ONNX Runtime"):
        prove(bundle)
    assert prove(bundle, precision="fp16").error == pytest.approx(0.01, rel=0.01)


def test_nan_at_the_profile_s_end_alone(
    gpu: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_outputs(monkeypatch, lambda values: values.__setitem__(0, np.nan), rows=3)
    for precision in ("fp16", "bf16"):  # with values to compare, and without
        with pytest.raises(EngineError, match=r"at sample \(3, 8, 16, 16\).*NaN or infinity"):
            prove(bundle, precision=precision)


def test_bfloat16_has_no_oracle(gpu: ModuleType, bundle: Path) -> None:
    proof = prove(bundle, precision="bf16")
    assert proof.outputs >= 3
    assert proof.tolerance == 0


def test_an_engine_for_another_gpu_is_not_proved(gpu: ModuleType) -> None:
    assert find_gpu(("12.0",)) == "built for compute capability 12.0, and the GPU here has 8.9"


def test_without_a_gpu_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    assert "needs" in str(find_gpu(()))


@pytest.fixture
def builder(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A builder that writes the stand-in's engines."""
    tensorrt.write_engines(bundle, profile=PROFILE, compute_capabilities=("8.9",))
    plans = {graph: (bundle / plan_name(graph)).read_bytes() for graph in GRAPHS}
    for path in bundle.glob("*.plan*"):
        path.unlink()

    def build(library, graph, shapes, options, bars):  # type: ignore[no-untyped-def]
        plan = memoryview(plans[graph.name])
        return Engine(plan, BuildOptions(1, 3, False, False), 12, Kernels(7, 1, 2), 0.1)

    monkeypatch.setattr(building, "build_engine", build)
    monkeypatch.setattr(building, "compute_capability", lambda: "8.9")
    return Library("tensorrt", tensorrt.VERSION, SimpleNamespace())


def build(bundle: Path, builder: Library) -> None:
    options = EngineOptions(profile=PROFILE)
    records = build_engines(load_bundle(bundle), builder, options)
    caption = str(engine_table(records).caption)
    for graph, record in records.items():
        said = json.loads((bundle / f"{plan_name(graph)}.json").read_text())["proof"]
        assert said["gpu"] == record.proof.gpu
        assert said["reason"] == record.proof.reason
    gpu = records["unet.onnx"].proof.gpu
    assert (f"proved on {gpu}" if gpu else "not proved, only built") in caption


def test_a_build_ends_with_proof(gpu: ModuleType, bundle: Path, builder: Library) -> None:
    build(bundle, builder)
    assert load_bundle(bundle / "unet.plan").plans["unet.onnx"].proof.gpu


def test_a_build_that_is_not_proved_says_so(
    gpu: ModuleType, bundle: Path, builder: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "find_gpu", lambda capabilities: "there is no GPU")
    build(bundle, builder)


def test_engines_that_are_refuted_leave_nothing(
    gpu: ModuleType, bundle: Path, builder: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_outputs(monkeypatch, lambda values: values.fill(0))
    with pytest.raises(EngineError, match="differs from ONNX Runtime"):
        build(bundle, builder)
    assert not list(bundle.glob("*plan*"))
