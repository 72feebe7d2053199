"""Engines of cuts: those asked for are built, and the shortest that suffices runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from standins.tensorrt import write_engines

import mdrt
from mdrt.cli import main
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import check_plans
from mdrt.runtime.errors import BundleError

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs g++ to run CUDA kernels"
)


def opened(segmenter: mdrt.Segmenter) -> list[str]:
    return [session.path.name for session in segmenter.network.passes.sessions]


@needs_compiler
def test_the_shortest_engine_that_suffices_runs(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]
) -> None:
    write_engines(bundle, cuts=("encoder", "whole"))
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    assert opened(segmenter) == ["unet.plan"]
    result = segmenter(picture, segments=4, features="encoder")
    assert opened(segmenter) == ["unet.plan", "unet.encoder.plan"]
    expected = mdrt.Segmenter(bundle)(picture, segments=4, features="encoder")
    assert np.mean(result.labels == expected.labels) > 0.99


@needs_compiler
def test_the_encoder_alone(bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]) -> None:
    write_engines(bundle, cuts=("encoder",))
    segmenter = mdrt.Segmenter(bundle / "unet.encoder.plan")
    segmenter(picture, segments=4, features="encoder")
    assert opened(segmenter) == ["unet.encoder.plan"]
    with pytest.raises(BundleError, match="the longest cut built is encoder") as caught:
        segmenter(picture, segments=4, features="decoder")
    assert f"`mdrt build {bundle} --cuts encoder,whole`" in str(caught.value)


@needs_compiler
def test_the_whole_alone_serves_the_encoder(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]
) -> None:
    write_engines(bundle)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    segmenter(picture, segments=4, features="encoder")
    assert opened(segmenter) == ["unet.plan"]


def test_opened_by_an_engine_that_is_not_there(bundle: Path, gpu: ModuleType) -> None:
    write_engines(bundle, cuts=("encoder",))
    with pytest.raises(BundleError, match=r"unet\.plan does not exist") as caught:
        load_bundle(bundle / "unet.plan")
    assert f"`mdrt build {bundle} --cuts encoder,whole`" in str(caught.value)
    with pytest.raises(BundleError, match=r"a cut that storybook does not have; open one of"):
        load_bundle(bundle / "unet.features.plan")


def test_a_damaged_engine_of_a_cut_is_refused(bundle: Path, gpu: ModuleType) -> None:
    write_engines(bundle, cuts=("encoder", "whole"))
    (bundle / "unet.encoder.plan").write_bytes(b"")
    with pytest.raises(BundleError, match=r"unet\.encoder\.plan has 0 bytes") as caught:
        load_bundle(bundle / "unet.plan")
    assert "--cuts encoder,whole`" in str(caught.value)


def test_built_for_real(bundle: Path) -> None:
    """Over the weights of the whole, and no engine of a cut that was not asked for stays."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

    def build(*options: str) -> set[str]:
        command = ["build", str(bundle), "--library", "tensorrt-rtx", *options]
        done = CliRunner().invoke(main, [*command, "--profile", "size=128"])
        assert done.exit_code == 0, done.output
        return {path.name for path in bundle.glob("unet*.plan*")}

    assert build("--cuts", "encoder,whole") == {
        "unet.plan",
        "unet.plan.json",
        "unet.encoder.plan",
        "unet.encoder.plan.json",
    }
    records = check_plans(bundle, load_bundle(bundle).manifest, "unet.plan")
    encoder, whole = records["unet.encoder.onnx"], records["unet.onnx"]
    assert encoder.sources.keys() == {"unet.encoder.onnx", "unet.onnx.data"}
    assert encoder.shapes == whole.shapes
    assert encoder.plan.bytes < whole.plan.bytes / 2
    assert encoder.layers < whole.layers / 2
    assert build("--cuts", "encoder") == {"unet.encoder.plan", "unet.encoder.plan.json"}


def test_a_cut_that_the_bundle_does_not_have(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    command = ["build", str(bundle), "--library", "tensorrt-rtx", "--cuts", "features"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "cut features is none of encoder, whole, which the bundle has" in done.output
