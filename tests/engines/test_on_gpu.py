"""Engines built and run on a real GPU, beside ONNX Runtime on the CPU; `make gpu-test`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import mdrt
from mdrt.benchmarks.lab.device.stages import main as gpu
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.export.engines.build import build_engines
from mdrt.export.engines.options import EngineOptions
from mdrt.export.engines.profiles import parse_profiles
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import LIBRARIES, installed_version
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.device import open_gpu
from mdrt.runtime.sessions.library import open_library

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=list(LIBRARIES))
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The embedded model's engines by each library that is installed."""
    try:
        open_gpu()
    except mdrt.ProviderError as error:
        pytest.skip(str(error))
    if installed_version(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    bundle = shutil.copytree(EMBEDDED, tmp_path_factory.mktemp(request.param) / "bundle")
    options = EngineOptions(profile=parse_profiles(["batch=1:1:4", "size=128:384:384"]))
    library = open_library(request.param)
    build_engines(load_bundle(bundle), library, options)
    return bundle / "unet.plan"


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("pooling", ["exp", "softmax"])
@pytest.mark.parametrize("mode", ["paper", "released"])
def test_engines_beside_onnx_runtime(engines: Path, mode: Any, pooling: Any, graphs: bool) -> None:
    segmenter, oracle = mdrt.Segmenter(engines, cuda_graphs=graphs), mdrt.Segmenter()
    scenes = [render(seed).image for seed in (0, 1, 2)]
    wide = np.concatenate(scenes, axis=1)
    for image in (*scenes, wide, scenes[0][:150]):
        ours, theirs = (
            model(image, CLASSES, mode=mode, pooling=pooling) for model in (segmenter, oracle)
        )
        assert (ours.labels == theirs.labels).mean() > 0.995
        np.testing.assert_allclose(ours.weights.values, theirs.weights.values, atol=1e-2)


def test_unnamed_segments(engines: Path) -> None:
    image = render(3).image
    ours, theirs = (model(image, segments=4) for model in map(mdrt.Segmenter, (engines, None)))
    assert (ours.labels == theirs.labels).mean() > 0.98


def test_latency(engines: Path) -> None:
    """Prints the table; what it says is no test."""
    done = CliRunner().invoke(gpu, ["--classes", "14", "-e", str(engines)])
    assert done.exit_code == 0, done.output
    print(done.stdout)
