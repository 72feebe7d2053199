"""Commands of the laboratory that are small enough to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mdrt.benchmarks.lab.__main__ import main
from mdrt.runtime.segmenter import EMBEDDED

pytest.importorskip("onnx")


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_scoring_is_timed_beside_the_networks() -> None:
    arguments = ("--classes", "5", "--size", "64", "--pictures", "2", "--runs", "1")
    found = json.loads(printed("scoring", *arguments, "--json"))
    assert found["network_s"] > 0
    assert {"miou", "hungarian-image", "boundary IoU"} <= found["scoring_s"].keys()
    assert all(seconds > 0 for seconds in found["scoring_s"].values())
    assert "ms a picture" in printed("scoring", *arguments)


def test_half_precision_weights_are_not_quantised(tmp_path: Path) -> None:
    arguments = ["quantise", str(EMBEDDED), "--out", str(tmp_path / "int8")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "export it with --weights fp32" in done.output
    assert not list(tmp_path.iterdir())
