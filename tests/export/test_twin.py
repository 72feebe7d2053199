"""The twin graphs for CPUs: written where worth it, proved, chosen, said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import random_models
from click.testing import CliRunner

import mdrt
from mdrt.cli import main
from mdrt.export.exporter import ExportReport, export
from mdrt.kernels.cpu import operator_library
from mdrt.runtime.bundle.contract import OPERATORS, is_twin
from mdrt.runtime.errors import ProviderError
from mdrt.runtime.sessions.providers import choose_operators

pytestmark = pytest.mark.skipif(operator_library() is None, reason="built without a compiler")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A UNet with 128 channels at 32×32, the smallest that is worth a twin."""
    folder = tmp_path_factory.mktemp("wide")
    unet = random_models.sd1_unet(
        sample_size=32, block_out_channels=(128, 128, 128, 128), layers_per_block=1
    )
    return export(random_models.save_pipeline(folder / "pipeline", unet), folder / "bundle")


def nodes(report: ExportReport, name: str) -> list[onnx.NodeProto]:
    return list(onnx.load(report.path / name, load_external_data=False).graph.node)


def kinds(report: ExportReport, name: str) -> Counter[str]:
    """Domain and type of every node, counted."""
    return Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes(report, name))


def test_only_large_convolutions_are_replaced(wide: ExportReport) -> None:
    plain, twin = kinds(wide, "unet.onnx"), kinds(wide, "unet.winograd.onnx")
    # two of the one resnet at 32×32 (the up block at that size is cut away); those at 16×16 have
    # too little to do
    assert plain["Conv"] - twin["Conv"] == twin["mdrt.WinogradConv"] == 2
    assert twin["mdrt.Gate"] == plain["Gelu"] > 0
    assert {kind for kind in twin if kind.startswith("mdrt.")} == {"mdrt.WinogradConv", "mdrt.Gate"}
    assert not (wide.path / "vae_encoder.winograd.onnx").exists()  # 16 channels


def test_convolutions_take_norms_and_sums_along(wide: ExportReport) -> None:
    """The resnet at 32×32: norm, SiLU, convolution, the time's embedding; then the same again with
    the shortcut's sum."""
    ours = [n for n in nodes(wide, "unet.winograd.onnx") if n.op_type == "WinogradConv"]
    assert all(node.input[3] and node.input[4] and node.input[5] for node in ours)
    assert all(a.i == 1 for node in ours for a in node.attribute if a.name == "silu")
    plain, twin = kinds(wide, "unet.onnx"), kinds(wide, "unet.winograd.onnx")
    assert plain["InstanceNormalization"] - twin["InstanceNormalization"] == len(ours)
    assert plain["Sigmoid"] - twin["Sigmoid"] == len(ours)


def test_bf16x3_replaces_every_product_with_weights(wide: ExportReport) -> None:
    plain, twin = kinds(wide, "unet.onnx"), kinds(wide, "unet.bf16x3.onnx")
    assert twin["mdrt.WinogradConv"] == 2  # as above
    assert twin["mdrt.Conv"] == plain["Conv"] - 2 > 0
    assert twin["Conv"] == twin["InstanceNormalization"] == twin["Gelu"] == 0
    of_logits = 2 * len(wide.manifest.attention)  # QKᵀ and what is made of it
    assert twin["MatMul"] <= of_logits
    assert twin["mdrt.MatMul"] > of_logits
    gated = [n for n in nodes(wide, "unet.bf16x3.onnx") if n.op_type == "MatMul" and n.domain]
    gates = sum(a.i for node in gated for a in node.attribute if a.name == "gated")
    assert gates == plain["Gelu"]


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("unet.winograd.onnx", "com.microsoft.MultiHeadAttention"),
        ("unet.bf16x3.onnx", "mdrt.Attention"),
    ],
)
def test_attention_is_fused_where_its_logits_are_no_output(
    wide: ExportReport, name: str, operator: str
) -> None:
    plain, twin = kinds(wide, "unet.onnx"), kinds(wide, name)
    assert twin["Softmax"] <= len(wide.manifest.attention)
    assert twin[operator] == plain["Softmax"] - twin["Softmax"] > 0
    outputs = {value for node in nodes(wide, name) for value in node.output}
    assert {a.name for a in wide.manifest.attention} <= outputs


@pytest.mark.parametrize("operators", ["winograd", "bf16x3"])
def test_the_twin_is_proved_and_listed(wide: ExportReport, operators: str) -> None:
    rows = [row for row in wide.proof if row.graph == f"unet.{operators}.onnx"]
    assert {row.tensor for row in rows} == set(wide.manifest.output_names)
    assert all(row.passed for row in rows)
    assert f"unet.{operators}.onnx" in wide.manifest.files


def test_the_twin_has_its_cuts_too(wide: ExportReport) -> None:
    rows = [row for row in wide.proof if row.graph == "unet.encoder.winograd.onnx"]
    assert [row.tensor for row in rows] == [output.name for output in wide.manifest.encoder]
    assert all(row.passed for row in rows)
    with mdrt.Segmenter(wide.path, operators="winograd") as segmenter:
        segmenter(np.zeros((64, 64, 3), np.uint8), segments=2, features="encoder")
        names = [session.path.name for session in segmenter.network.passes.sessions]
    assert names == ["unet.winograd.onnx", "unet.encoder.winograd.onnx"]


def test_labels_agree_with_onnx_runtimes_operators(wide: ExportReport) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (256, 320, 3), dtype=np.uint8)
    found = {
        operators: mdrt.Segmenter(wide.path, operators=operators)(image, ["sky", "grass", "car"])
        for operators in OPERATORS
    }
    for operators, result in found.items():
        assert result.settings["operators"] == operators
        assert np.mean(result.labels == found["onnxruntime"].labels) > 0.999
    confidences = {result.confidence.tobytes() for result in found.values()}
    assert len(confidences) == 3  # each was another computation


def test_small_graphs_have_no_twin(sd1_report: ExportReport) -> None:
    names = [path.name for path in sd1_report.path.glob("*.onnx")]
    assert not [name for name in names if is_twin(name)]
    with pytest.raises(ProviderError, match="has no graphs for them"):
        mdrt.Segmenter(sd1_report.path, operators="winograd")


def test_the_processor_decides(wide: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = mdrt.Segmenter(wide.path).bundle
    for tiles, expected in ((True, "bf16x3"), (False, "winograd")):
        monkeypatch.setattr("mdrt.runtime.sessions.providers.has_tiles", lambda t=tiles: t)
        assert choose_operators(None, bundle, "cpu") == expected


def test_asked_for_where_they_cannot_run(
    wide: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = mdrt.Segmenter(wide.path).bundle
    with pytest.raises(ProviderError, match="use provider cpu"):
        choose_operators("winograd", bundle, "cuda")
    assert choose_operators(None, bundle, "cuda") == "onnxruntime"
    monkeypatch.setattr("mdrt.runtime.sessions.providers.operator_library", lambda: None)
    with pytest.raises(ProviderError, match="C\\+\\+ compiler"):
        choose_operators("bf16x3", bundle, "cpu")
    assert choose_operators(None, bundle, "cpu") == "onnxruntime"


@pytest.mark.parametrize("operators", OPERATORS)
def test_the_command_says_which(wide: ExportReport, tmp_path: Path, operators: str) -> None:
    picture = Path(__file__).parents[2] / "examples" / "valley.png"
    arguments = ["segment", str(picture), "--classes", "sky, grass", "--engine", str(wide.path)]
    arguments += ["--operators", operators, "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["settings"]["operators"] == operators
