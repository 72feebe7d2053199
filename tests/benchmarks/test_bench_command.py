"""`mdrt bench` on the embedded model: what it prints is whole, and its parity is real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mdrt.cli import main

pytest.importorskip("onnx")
PIPELINE = Path(__file__).parents[2] / "benchmarks" / "scenes" / "storybook"


def bench(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["bench", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_latency_reports_every_stage_of_every_contender() -> None:
    arguments = ("--images", "1", "--rounds", "1", "--classes", "4", "--json")
    found = json.loads(bench("latency", *arguments, "--against", "onnxruntime"))
    assert list(found["contenders"]) == ["mdrt", "onnxruntime"]
    for result in found["contenders"].values():
        stages = result["stages_s"]
        assert {"vae", "text", "unet", "attention", "prototypes", "assign"} <= stages.keys()
        assert 0 < sum(stages.values()) <= result["p50_s"] <= result["p95_s"]
        assert result["peak_bytes"] > 50e6
    # no convolution of the embedded model is large enough for a twin: the same graphs, twice
    assert found["contenders"]["onnxruntime"]["agreement with mdrt"] == 1
    assert found["multiply_adds"]["vae"] > found["multiply_adds"]["text"] >= 0
    assert found["peaks"]["product"] > 1e9


def test_parity_compares_every_tensor_and_label() -> None:
    found = json.loads(bench("parity", "--pipeline", str(PIPELINE), "--classes", "3", "--json"))
    assert {row["graph"] for row in found["tensors"]} == {
        "vae_encoder.onnx",
        "text_encoder.onnx",
        "unet.onnx",
    }
    assert all(row["passed"] for row in found["tensors"])
    assert {row["mode"] for row in found["labels"]} == {"paper", "released"}
    assert all(row["share"] > 0.999 for row in found["labels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--against", "caffe"], "--against caffe: choose of"),
        (["latency", "--against", "torch"], "needs --pipeline"),
        (["latency", "--size", "100"], "expected a multiple of 64"),
        (["parity"], "--pipeline"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == 2
    assert message in done.output
