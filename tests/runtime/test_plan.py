"""A plan is trusted only beside its sidecar and its graph; no library is needed to tell."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mdrt.runtime.bundle import plan
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle, record_file
from mdrt.runtime.bundle.plan import PlanRecord, Range, Shapes, check_plans, plan_name, sidecar_name
from mdrt.runtime.errors import BundleError
from mdrt.runtime.segmenter import EMBEDDED

GRAPHS = [g for g in graph_names(load_bundle(EMBEDDED).manifest) if g != "unet.encoder.onnx"]

VERSION = "1.7.0"


def make_record(directory: Path, graph: str) -> PlanRecord:
    """A sidecar of the plan that lies in `directory`, with plausible values."""
    return PlanRecord(
        graph=graph,
        sources=plan.sources(load_bundle(directory).manifest, graph),
        library="tensorrt-rtx",
        library_version=VERSION,
        created_by="0.1.0",
        precision="fp32",
        profile={"batch": Range(1, 1, 4), "size": Range(256, 256, 256)},
        shapes={"image": Shapes((1, 3, 256, 256), (1, 3, 256, 256), (4, 3, 256, 256))},
        compute_capabilities=("8.6", "8.9"),
        options=plan.BuildOptions(1 << 30, 3, weight_streaming=False, stripped=False),
        layers=12,
        kernels=plan.Kernels(7, fused=1, split=2),
        plan=record_file(directory / plan_name(graph)),
        seconds=1.5,
        proof=plan.Proof("NVIDIA L40S", 9, 3e-4, 1e-3),
    )


def write_sidecar(directory: Path, record: PlanRecord) -> None:
    text = json.dumps(record.to_json())
    (directory / sidecar_name(record.graph)).write_text(text)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded bundle with three plans of a few bytes; their library is installed."""
    directory = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    for graph in GRAPHS:
        (directory / plan_name(graph)).write_bytes(f"engine of {graph}".encode())
        write_sidecar(directory, make_record(directory, graph))
    monkeypatch.setattr(plan, "installed_version", {"tensorrt-rtx": VERSION}.get)
    return directory


def message(bundle: Path) -> str:
    """What `--engine unet.plan` is answered: one line that names the command that mends it."""
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle / "unet.plan")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    path = bundle / "unet.plan.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_sidecar_survives_the_round_trip(bundle: Path) -> None:
    records = check_plans(bundle, load_bundle(bundle).manifest, "unet.plan")
    assert records == {graph: make_record(bundle, graph) for graph in GRAPHS}


def test_a_bundle_opened_by_its_engine_needs_no_graphs(bundle: Path) -> None:
    for name in load_bundle(bundle).manifest.files:
        if name.endswith((".onnx", ".data")):
            (bundle / name).unlink()
    assert set(load_bundle(bundle / "unet.plan").plans) == set(GRAPHS)
    with pytest.raises(BundleError, match=r"\.onnx is missing from the bundle"):
        load_bundle(bundle)


def test_engines_stripped_of_their_weights_need_the_graphs(bundle: Path) -> None:
    edit(bundle, lambda values: values["options"].update(stripped=True))
    assert load_bundle(bundle / "unet.plan").plans["unet.onnx"].options.stripped
    (bundle / "vae_encoder.onnx").unlink()
    assert "vae_encoder.onnx is missing from the bundle" in message(bundle)


def test_no_plan(bundle: Path) -> None:
    (bundle / "unet.plan").unlink()
    assert "unet.plan does not exist" in message(bundle)
    assert f"`mdrt build {bundle}`" in message(bundle)


def test_no_sidecar(bundle: Path) -> None:
    (bundle / "unet.plan.json").unlink()
    assert "no sidecar unet.plan.json" in message(bundle)
    assert f"`mdrt build {bundle}`" in message(bundle)


@pytest.mark.parametrize("graph", GRAPHS)
def test_truncated_plan(bundle: Path, graph: str) -> None:
    path = bundle / plan_name(graph)
    path.write_bytes(path.read_bytes()[:-1])
    text = message(bundle)
    assert f"{path.name} has" in text
    assert (
        f"`mdrt build {bundle} --library tensorrt-rtx --profile batch=1:1:4 --profile size=256`"
        in text
    )


def test_foreign_plan(bundle: Path) -> None:
    path = bundle / "unet.plan"
    path.write_bytes(bytes(len(path.read_bytes())))
    assert "unet.plan has SHA-256" in message(bundle)
    assert "mdrt build" in message(bundle)


def test_the_sidecar_of_another_graph(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(graph="vae_encoder.onnx"))
    assert "built from another unet.onnx" in message(bundle)


@pytest.mark.parametrize("name", ["unet.onnx", "unet.onnx.data"])
def test_stale_graph(bundle: Path, name: str) -> None:
    edit(bundle, lambda values: values["sources"].update({name: "0" * 64}))
    assert "built from another unet.onnx" in message(bundle)
    assert "mdrt build" in message(bundle)


def test_another_version(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(library_version="1.6.0"))
    text = message(bundle)
    assert "built by tensorrt-rtx 1.6.0, and 1.7.0 is installed" in text
    assert "mdrt build" in text


def test_a_library_that_is_not_installed(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(library="tensorrt", library_version="10.1"))
    text = message(bundle)
    assert "needs tensorrt 10.1, which is not installed" in text
    assert "pip install tensorrt==10.1" in text
    assert "mdrt build" in text


def test_an_unknown_library(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(library="tvm"))
    assert "expected one of tensorrt, tensorrt-rtx" in message(bundle)


@pytest.mark.parametrize("found", [0, 1, 3, None, "2", True])
def test_another_schema_version(bundle: Path, found: object) -> None:
    edit(bundle, lambda values: values.update(schema_version=found))
    assert f"schema version {found!r}" in message(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000])
def test_a_corrupt_sidecar(bundle: Path, text: str) -> None:
    (bundle / "unet.plan.json").write_text(text)
    assert "unet.plan.json" in message(bundle)
    assert "mdrt build" in message(bundle)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(PlanRecord)])
def test_every_key_is_needed_and_typed(bundle: Path, key: str) -> None:
    original = (bundle / "unet.plan.json").read_text()
    edit(bundle, lambda values: values.pop(key))
    assert key.replace("schema_version", "schema version") in message(bundle)
    (bundle / "unet.plan.json").write_text(original)
    edit(bundle, lambda values: values.update({key: {"wrong": None}}))
    assert key.replace("schema_version", "schema version") in message(bundle)


def test_a_plan_is_no_part_of_the_manifest(bundle: Path) -> None:
    assert load_bundle(bundle).path == bundle
    assert not [name for name in load_bundle(bundle).manifest.files if ".plan" in name]


def test_an_installed_library_is_found_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "packages_distributions", lambda: {"tensorrt_rtx": ["pytest"]})
    assert plan.installed_version("tensorrt-rtx") == pytest.__version__
    assert plan.installed_version("tensorrt") is None
