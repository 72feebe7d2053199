"""Engines of families without a UNet: built for real, and run on the stand-ins from the picture to
the label map."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from standins.tensorrt import write_engines

import mdrt
from mdrt.cli import main
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import check_plans, plan_name, sidecar_name
from mdrt.runtime.heads import offered_heads

pytest.importorskip("torch")

import random_models

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd3": random_models.save_sd3,
    "clip": random_models.save_clip,
    "dinov2": random_models.save_dinov2,
}
NAMES = ["sky", "grass", "traffic light"]


@pytest.fixture(scope="module", params=list(FAMILIES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    source = FAMILIES[request.param](folder / request.param)
    done = CliRunner().invoke(main, ["export", str(source), "-o", str(folder / "bundle")])
    assert done.exit_code == 0, done.output
    return folder / "bundle"


def test_every_graph_becomes_an_engine(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    manifest = load_bundle(bundle).manifest
    size = 2 * manifest.image.native_size
    command = ["build", str(bundle), "--library", "tensorrt-rtx", "--profile"]
    done = CliRunner().invoke(main, [*command, f"size={size // 2}:{size // 2}:{size}"])
    assert done.exit_code == 0, done.output
    records = check_plans(bundle, manifest, plan_name(manifest.network))
    assert {*records} <= {*graph_names(manifest)}
    assert manifest.network in records
    for graph, record in records.items():
        model = onnx.load(bundle / graph, load_external_data=False)
        assert {*record.shapes} == {value.name for value in model.graph.input}
        assert (bundle / plan_name(graph)).stat().st_size == record.plan.bytes > 0
        assert (bundle / sidecar_name(graph)).is_file()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run CUDA kernels")
def test_engines_see_what_onnx_runtime_does(
    exported: Path, tmp_path: Path, gpu: ModuleType
) -> None:
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    write_engines(bundle, "tensorrt")
    manifest = load_bundle(bundle).manifest
    side = manifest.image.native_size
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ours, theirs = mdrt.Segmenter(bundle / plan_name(manifest.network)), mdrt.Segmenter(bundle)
    asked = {"classes": NAMES} if offered_heads(manifest, "named") else {"segments": 3}
    found, expected = (one(picture, **asked) for one in (ours, theirs))
    assert found.settings["backend"] == "tensorrt 10.99"
    assert (found.labels == expected.labels).mean() > 0.99
