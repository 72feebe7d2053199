"""A quantised copy: a bundle like any other, its UNet's matrix products in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import mdrt
from mdrt.benchmarks.lab.__main__ import main
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.export.exporter import ExportReport


@pytest.mark.parametrize(
    ("flag", "operator"), [("--activations", "MatMulInteger"), ("--weights-alone", "MatMulNBits")]
)
def test_a_quantised_bundle_segments(
    sd1_report: ExportReport, tmp_path: Path, flag: str, operator: str
) -> None:
    target = tmp_path / "int8"
    arguments = ["quantise", str(sd1_report.path), "--out", str(target), flag]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    nodes = onnx.load(target / "unet.onnx", load_external_data=False).graph.node
    assert operator in {node.op_type for node in nodes}
    image = render(11).image
    exact, coarse = (
        mdrt.Segmenter(path)(image, ["sky", "water", "boat"]) for path in (sd1_report.path, target)
    )
    assert not np.array_equal(exact.confidence, coarse.confidence)  # it was another computation
    assert np.mean(exact.labels == coarse.labels) > 0.5
