"""Self-attention as graph outputs, proved like the rest, and DiffSeg on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mdrt
from mdrt import kernels
from mdrt.cli import main
from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.runtime.errors import ExportError


@pytest.fixture(scope="module")
def report(sd1: Path, workspace: Path) -> ExportReport:
    """SD 1.x-shaped, every self-attention layer DiffSeg reads."""
    options = ExportOptions(self_attention_strides=(64, 32, 16, 8))
    return export(sd1, workspace / "sd1-self.bundle", options)


def test_every_layer_is_proved(report: ExportReport, sd1_report: ExportReport) -> None:
    layers = report.manifest.self_attention
    assert [layer.stride for layer in layers] == [64] + [32] * 5 + [16] * 5 + [8] * 5
    assert len({layer.layer for layer in layers}) == 16
    assert all(layer.layer.endswith("attn1") for layer in layers)
    rows = {row.tensor: row for row in report.proof if row.graph == "unet.onnx"}
    assert list(rows) == list(report.manifest.output_names)
    assert all(row.passed for row in rows.values())
    for name in ("self_queries_s8_4", "self_keys_s8_4"):
        for shape in rows[name].shapes:
            assert shape[1] == layers[-1].heads
            assert shape[2] >= 64
    assert not sd1_report.manifest.self_attention  # none unless asked for
    assert "self_" not in " ".join(sd1_report.manifest.output_names)


def test_queries_and_keys_make_probabilities(report: ExportReport) -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    taps = mdrt.Segmenter(report.path).look(image).taps
    layers = taps.self_attention(299)
    assert [layer.stride for layer in layers] == [64] + [32] * 5 + [16] * 5 + [8] * 5
    maps = [kernels.mean_map([(layer.queries, layer.keys)]) for layer in layers]
    assert [len(found) for found in maps] == [4] + [16] * 5 + [64] * 5 + [256] * 5
    for found in maps:
        assert found.min() >= 0
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert [layer.stride for layer in taps.self_attention(299, [16])] == [16] * 5


def test_diffseg_segments_with_it(report: ExportReport, tmp_path: Path) -> None:
    arguments = ["eval", "run", "scenes", "--limit", "2", "--head", "diffseg"]
    done = CliRunner().invoke(main, [*arguments, "-e", str(report.path), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| diffseg | defaults |" in (tmp_path / "report.md").read_text()


def test_a_stride_without_layers_lists_those_with(sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"stride 4 .*self-attention strides 64,32,16,8"):
        export(sd1, tmp_path / "bundle", ExportOptions(self_attention_strides=(4,)))
