"""`mdrt segment --engine unet.plan` from the picture to the label map, on the stand-ins."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from standins import cupy as device
from standins.tensorrt import Engine, write_engines

import mdrt
from mdrt.benchmarks.lab.__main__ import main as lab
from mdrt.cli import main
from mdrt.runtime.bundle.plan import Range
from mdrt.runtime.errors import BundleError, DeviceMemoryError, MdrtError
from mdrt.runtime.look import network
from mdrt.runtime.sessions import providers
from mdrt.runtime.sessions.device import Gpu

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run CUDA kernels")

NAMES = ["sky", "cloud", ("mountain", "tree"), "grass", "house"]


def same(ours: mdrt.Segmentation, theirs: mdrt.Segmentation) -> None:
    """Labels as on the CPU but for near-ties, everything else to rounding; all of it NumPy's."""
    assert type(ours.labels) is type(ours.confidence) is type(ours.weights.values) is np.ndarray
    assert ours.labels.dtype == theirs.labels.dtype
    assert (ours.labels == theirs.labels).mean() > 0.999
    np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-3)
    np.testing.assert_allclose(ours.weights.values, theirs.weights.values, atol=1e-3)
    assert ours.classes == theirs.classes


@pytest.fixture
def wide() -> NDArray[np.uint8]:
    """Several tiles, and not square; as high as the engines' one size, so that both backends lay
    it on the same canvas."""
    from mdrt.benchmarks.lab.scenes.renderer import render

    return np.concatenate([render(8, 384).image, render(9, 384).image[:, :300]], axis=1)


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(
    ("mode", "pooling", "attention", "refine"),
    [
        ("paper", "exp", 0.0, "none"),
        ("paper", "softmax", 0.35, "guided"),
        ("released", "exp", 0.0, "guided"),
        ("released", "softmax", 0.0, "pamr"),
        ("released", "softmax", 0.35, "none"),
    ],
)
def test_named_classes(
    bundle: Path,
    gpu: ModuleType,
    wide: NDArray[np.uint8],
    library: str,
    mode: Any,
    pooling: Any,
    attention: float,
    refine: Any,
) -> None:
    write_engines(bundle, library)
    options = {"mode": mode, "pooling": pooling, "attention": attention, "refine": refine}
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    expected = mdrt.Segmenter(bundle)(wide, NAMES, scores=True, **options)
    for _ in range(3):  # ordinary, captured, launched
        result = segmenter(wide, NAMES, scores=True, **options)
        same(result, expected)
        assert result.scores is not None
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-3)
    assert device.Graph.launched
    assert result.settings["backend"] == f"{library} 10.99"
    assert result.settings["tiles"] == 3
    assert list(result.timings)[-1] == "download"
    assert all(seconds >= 0 for seconds in result.timings.values())


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("refine", ["none", "guided", "pamr"])
def test_nothing_waits_between_upload_and_download(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8], mode: Any, refine: Any
) -> None:
    """The host puts a picture's work on the stream without looking back, and waits once."""
    write_engines(bundle)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    for _ in range(3):
        device.WAITED.clear()
        segmenter(picture, NAMES, mode=mode, pooling="exp", refine=refine)
        assert device.WAITED == ["synchronize"]


def test_a_threshold(bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]) -> None:
    write_engines(bundle)
    options: dict[str, Any] = {"mode": "paper", "pooling": "exp"}
    oracle = mdrt.Segmenter(bundle)
    options["threshold"] = float(np.median(oracle(picture, NAMES, **options).confidence))
    ours = mdrt.Segmenter(bundle / "unet.plan")(picture, NAMES, **options)
    assert 0.4 < (ours.labels == 255).mean() < 0.6
    same(ours, oracle(picture, NAMES, **options))


def test_unnamed_segments(bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]) -> None:
    write_engines(bundle)
    segmenter, oracle = mdrt.Segmenter(bundle / "unet.plan"), mdrt.Segmenter(bundle)
    for segments in (4, "auto"):
        same(segmenter(picture, segments=segments), oracle(picture, segments=segments))


def test_more_prompts_than_the_profile_has_rows(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]
) -> None:
    """A class list over several prompts, rows one at a time."""
    write_engines(bundle, profile={"batch": Range(1, 1, 1)})
    names = [f"{a}{b}" for a in "abcdefghijkl" for b in ("tree", "house")]
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    assert len(segmenter.network.words.encode(names).prompts.texts) == 2
    same(segmenter(picture, names), mdrt.Segmenter(bundle)(picture, names))


def test_an_engine_of_one_size_takes_every_picture(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]
) -> None:
    write_engines(bundle, profile={"size": Range(384, 384, 384)})
    result = mdrt.Segmenter(bundle / "unet.plan")(picture[:70, :150], ["sky", "tree"])
    assert result.labels.shape == (70, 150)


def test_a_smaller_batch_is_tried_when_memory_does_not_suffice(
    bundle: Path, gpu: ModuleType, wide: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdrt.runtime.look.network.PIXELS_AT_ONCE", 3 * 384 * 384)
    write_engines(bundle, memory=1)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    same(
        segmenter(wide, NAMES, pooling="exp"),
        mdrt.Segmenter(bundle)(wide, NAMES, pooling="exp"),
    )
    assert segmenter.network._pass_rows.limit == 1  # and it is remembered
    device.MEMORY.limit = 3000
    with pytest.raises(DeviceMemoryError, match=r"out of device memory.*lower size"):
        segmenter(wide[:64, :64], NAMES)


def test_inputs_that_do_not_fit_at_once_are_put_together_in_parts(
    bundle: Path, gpu: ModuleType, wide: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy's own error, raised before an engine is asked, is no reason to give up either."""
    monkeypatch.setattr("mdrt.runtime.look.network.PIXELS_AT_ONCE", 3 * 384 * 384)
    write_engines(bundle)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    expected = segmenter(wide, NAMES)
    manifest = segmenter.manifest
    hidden = manifest.texts[0].tokens.max_length, manifest.texts[0].hidden
    real, refused = gpu.stack, []

    def stack(arrays: list[Any]) -> Any:
        if len(arrays) > 1 and (arrays[0].dtype == np.uint8 or arrays[0].shape == hidden):
            refused.append(len(arrays))
            raise gpu.cuda.memory.OutOfMemoryError("Out of memory allocating 1,000 bytes")
        return real(arrays)

    monkeypatch.setattr(gpu, "stack", stack, raising=False)
    same(segmenter(wide, NAMES), expected)
    assert len(refused) == 2  # once a graph


def test_the_text_encoder_can_be_released(
    bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]
) -> None:
    write_engines(bundle)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    first = segmenter(picture, NAMES)
    before = len(Engine.loaded)
    segmenter.network.words.release()
    assert len(Engine.loaded) == before - 1
    same(segmenter(picture, NAMES), first)  # its embeddings are still known
    assert len(Engine.loaded) == before - 1
    segmenter(picture, ["sky"])
    assert len(Engine.loaded) == before


def test_overflow_is_an_error(bundle: Path, gpu: ModuleType, picture: NDArray[np.uint8]) -> None:
    write_engines(bundle)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    segmenter.network.noise[...] = np.inf
    with pytest.raises(MdrtError, match=r"unet\.plan output .* holds NaN or infinity"):
        segmenter(picture, NAMES)
    segmenter = mdrt.Segmenter(bundle / "unet.plan")
    with segmenter.network.device.active():
        segmenter.network.device.expect_finite(
            "early", segmenter.network.device.xp.asarray(np.array([np.nan]))
        )
        segmenter.network.words.encode(["a text in between"])
        with pytest.raises(MdrtError, match="early holds NaN"):
            segmenter.network.device.download()()


def test_the_latency_table(bundle: Path, gpu: ModuleType) -> None:
    write_engines(bundle)
    arguments = ["gpu", "--pictures", "2", "--warmup", "1", "--classes", "3", "-e"]
    done = CliRunner().invoke(lab, [*arguments, str(bundle / "unet.plan"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["gpu"] == "a stand-in"
    assert {"vae", "unet", "attention", "assign", "download"} <= report["stages_s"].keys()
    assert 0 < sum(report["stages_s"].values()) <= 1.5 * report["whole_s"]
    assert 0 < report["share_after_the_networks"] < 1
    done = CliRunner().invoke(lab, [*arguments, str(bundle / "unet.plan")])
    assert "whole call" in done.stdout
    done = CliRunner().invoke(lab, [*arguments, str(bundle)])
    assert done.exit_code == 1
    assert "name its unet.plan with --engine" in done.stderr


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


def test_the_command(bundle: Path, gpu: ModuleType, picture_file: Path, tmp_path: Path) -> None:
    write_engines(bundle)
    out = tmp_path / "out"
    result = segment(
        picture_file, "--engine", bundle / "unet.plan", "--classes", "sky, tree", "-o", out
    )
    assert result.exit_code == 0, result.output
    labels = np.asarray(Image.open(out / "scene.png"))
    expected = mdrt.Segmenter(bundle)(picture_file, ["sky", "tree"])
    assert (labels == expected.labels).mean() > 0.999
    record = json.loads((out / "scene.json").read_text())
    assert record["settings"]["backend"] == "tensorrt 10.99"
    assert (out / "scene.overlay.png").exists()


def message(*arguments: object) -> str:
    """What the command says of a mistake: one line, no traceback."""
    result = segment(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_mistakes_are_one_line(
    bundle: Path, gpu: ModuleType, picture_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    write_engines(bundle)
    asked = (picture_file, "--classes", "sky", "-o", tmp_path / "out", "-e", bundle / "unet.plan")
    assert "provider cuda is for ONNX Runtime" in message(*asked, "--provider", "cuda")
    assert "operators winograd is for ONNX Runtime" in message(*asked, "--operators", "winograd")
    write_engines(bundle, profile={"size": Range(64, 128, 128)})
    assert "--profile size=384`" in message(*asked)
    write_engines(bundle, compute_capabilities=("7.5",))
    assert "this GPU has 8.9; run `mdrt build" in message(*asked)
    write_engines(bundle)
    api = gpu.cuda.runtime
    monkeypatch.setattr(api, "driverGetVersion", lambda: 11080)
    text = message(*asked)
    assert "is for CUDA 12, and the driver of this machine for CUDA 11; install a newer" in text
    monkeypatch.setattr(api, "runtimeGetVersion", lambda: 13020)
    monkeypatch.setattr(api, "driverGetVersion", lambda: 12080)
    text = message(*asked)
    assert "is for CUDA 13, and the driver of this machine for CUDA 12" in text
    assert "pip uninstall --yes cupy-cuda13x && pip install '.[cupy-cuda12x]'" in text
    monkeypatch.setattr(api, "driverGetVersion", lambda: 13000)

    def none() -> int:
        raise device.CUDARuntimeError("cudaErrorNoDevice")

    monkeypatch.setattr(api, "getDeviceCount", none)
    assert "finds no GPU (cudaErrorNoDevice); check that `nvidia-smi`" in message(*asked)
    monkeypatch.setitem(sys.modules, "cupy", None)
    text = message(*asked)
    assert "needs cupy, which is not installed; run `pip install '.[cupy-cuda13x]'`" in text
    assert "'.[cupy-cuda12x]' where `nvidia-smi` shows CUDA 12" in text


def test_cupy_whose_libraries_are_missing(
    bundle: Path, gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engines(bundle)
    broken = tmp_path / "cupy.py"
    broken.write_text("raise ImportError('libnvrtc.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(mdrt.ProviderError, match=r"libnvrtc.*cupy-cuda13x.*cupy-cuda12x"):
        mdrt.Segmenter(bundle / "unet.plan")


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_onnx_runtime_with_inputs_and_outputs_on_the_device(
    gpu: ModuleType, wide: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """I/O binding, ONNX Runtime's CPU in the place of its CUDA provider: the same memory."""
    cpu = providers.Provider(providers.PROVIDERS["cpu"].name, "")
    monkeypatch.setattr(providers, "PROVIDERS", providers.PROVIDERS | {"cuda": cpu})
    monkeypatch.setattr(Gpu, "memory", "cpu")
    segmenter = mdrt.Segmenter(provider="cuda")
    expected = mdrt.Segmenter(operators="onnxruntime")(wide, NAMES, mode=mode, pooling="exp")
    for _ in range(2):
        device.WAITED.clear()
        result = segmenter(wide, NAMES, mode=mode, pooling="exp")
        assert device.WAITED == ["synchronize"]
        same(result, expected)
    assert result.settings["backend"] == "cuda"


def test_more_strides_than_the_kernels_read_are_refused_at_load(
    gpu: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engines(bundle)
    monkeypatch.setattr(network, "MOST_LEVELS", 0)
    with pytest.raises(BundleError, match=r"features of 1 strides.*fewer feature strides"):
        mdrt.Segmenter(bundle / "unet.plan")
