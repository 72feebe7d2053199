"""The twin graphs for CPUs: written where worth it, proved, chosen, said."""

from __future__ import annotations

import json
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
from mdrt.runtime.errors import ProviderError
from mdrt.runtime.sessions.providers import wants_winograd

pytestmark = pytest.mark.skipif(operator_library() is None, reason="built without a compiler")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A UNet with 128 channels at 32×32, the smallest that is worth a twin."""
    folder = tmp_path_factory.mktemp("wide")
    unet = random_models.sd1_unet(
        sample_size=32, block_out_channels=(128, 128, 128, 128), layers_per_block=1
    )
    return export(random_models.save_pipeline(folder / "pipeline", unet), folder / "bundle")


def graphs(report: ExportReport) -> list[list[onnx.NodeProto]]:
    """The nodes of the UNet and of its twin."""
    return [
        list(onnx.load(report.path / name, load_external_data=False).graph.node)
        for name in ("unet.onnx", "unet.cpu.onnx")
    ]


def test_only_large_convolutions_are_replaced(wide: ExportReport) -> None:
    plain, twin = graphs(wide)
    ours = [node for node in twin if node.domain == "mdrt"]
    # two of the one resnet at 32×32 (the up block at that size is cut away); those at 16×16 have
    # too little to do
    assert [node.op_type for node in ours] == ["WinogradConv"] * len(ours)
    large = sum(node.op_type == "Conv" for node in plain) - sum(
        node.op_type == "Conv" for node in twin
    )
    assert len(ours) == large == 2
    assert not (wide.path / "vae_encoder.cpu.onnx").exists()  # 16 channels


def test_attention_is_fused_where_its_logits_are_no_output(wide: ExportReport) -> None:
    plain, twin = graphs(wide)
    kinds = [[node.op_type for node in nodes] for nodes in (plain, twin)]
    asked_for = len(wide.manifest.attention)
    assert kinds[1].count("Softmax") <= asked_for
    fused = kinds[1].count("MultiHeadAttention")
    assert fused == kinds[0].count("Softmax") - kinds[1].count("Softmax") > 0
    outputs = {name for node in twin for name in node.output}
    assert {a.name for a in wide.manifest.attention} <= outputs


def test_the_twin_is_proved_and_listed(wide: ExportReport) -> None:
    rows = [row for row in wide.proof if row.graph == "unet.cpu.onnx"]
    assert {row.tensor for row in rows} == set(wide.manifest.output_names)
    assert all(row.passed for row in rows)
    assert "unet.cpu.onnx" in wide.manifest.files


def test_labels_agree_with_direct_convolutions(wide: ExportReport) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (256, 320, 3), dtype=np.uint8)
    fast, direct = (
        mdrt.Segmenter(wide.path, winograd=choice)(image, ["sky", "grass", "car"])
        for choice in (None, False)
    )
    assert fast.settings["winograd"]
    assert not direct.settings["winograd"]
    assert np.mean(fast.labels == direct.labels) > 0.999
    assert not np.array_equal(fast.confidence, direct.confidence)  # it was another computation


def test_small_graphs_have_no_twin(sd1_report: ExportReport) -> None:
    assert not list(sd1_report.path.glob("*.cpu.onnx"))
    with pytest.raises(ProviderError, match="has no graphs for them"):
        mdrt.Segmenter(sd1_report.path, winograd=True)


def test_asked_for_where_it_cannot_run(wide: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = mdrt.Segmenter(wide.path).bundle
    with pytest.raises(ProviderError, match="use provider cpu"):
        wants_winograd(True, bundle, "cuda")
    assert not wants_winograd(None, bundle, "cuda")
    monkeypatch.setattr("mdrt.runtime.sessions.providers.operator_library", lambda: None)
    with pytest.raises(ProviderError, match="C\\+\\+ compiler"):
        wants_winograd(True, bundle, "cpu")
    assert not wants_winograd(None, bundle, "cpu")


def test_the_command_says_which(wide: ExportReport, tmp_path: Path) -> None:
    picture = Path(__file__).parents[2] / "examples" / "valley.png"
    for flag, expected in (("--winograd", True), ("--no-winograd", False)):
        arguments = ["segment", str(picture), "--classes", "sky, grass", "--engine"]
        arguments += [str(wide.path), flag, "--json", "--out", str(tmp_path)]
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["settings"]["winograd"] is expected
