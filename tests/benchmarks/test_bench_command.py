"""`mdrt bench` on the embedded model: what it prints is whole, and its parity is real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.benchmarks.speed import latency
from mdrt.benchmarks.speed.task import Task
from mdrt.cli import main
from mdrt.runtime.segmenter import EMBEDDED

pytest.importorskip("onnx")


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


def test_latency_asks_for_words_that_come_late_and_for_segments() -> None:
    arguments = ("--images", "1", "--rounds", "1", "--classes", "4", "--against", "none")
    asked = json.loads(bench("latency", *arguments, "--json"))["questions"]
    lists = ["4 names", "4 others, same look", "171 names", "847 names"]
    assert list(asked)[:5] == [*lists, "8 segments"]
    for name, result in asked.items():
        stages = result["stages_s"]
        assert 0 < sum(stages.values()) <= result["p50_s"]
        assert ("attention" in stages) == (name in lists)
        assert ("segments" in stages) == (name not in lists)
        assert ("unet" in stages) == (name != "4 others, same look"), "a look serves every list"
    printed = bench("latency", *arguments)
    assert all(name in printed for name in asked)


def test_latency_takes_another_bundle_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = tmp_path / "other"
    shutil.copytree(EMBEDDED, other)
    arguments = ("--images", "1", "--rounds", "1", "--classes", "4", "--json")
    found = json.loads(
        bench("latency", *arguments, "--against", str(other), "--out", str(tmp_path / "out"))
    )
    assert found == json.loads((tmp_path / "out" / "latency.json").read_text())
    assert list(found["contenders"]) == ["mdrt", "other"]
    assert found["contenders"]["other"]["agreement with mdrt"] == 1
    assert Image.open(tmp_path / "out" / "latency.png").width > 500


def test_a_contender_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = latency.contend

    def contend(task: Task, name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise RuntimeError("onnxruntime failed: no memory")
        return real(task, name, *rest)

    monkeypatch.setattr(latency, "contend", contend)
    arguments = ["bench", "latency", "--images", "1", "--rounds", "2", "--classes", "2", "--json"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "left out: onnxruntime failed: no memory" in done.stderr
    found = json.loads(done.stdout)
    assert list(found["contenders"]) == ["mdrt"]
    assert found["failed"] == {"onnxruntime": "onnxruntime failed: no memory"}


def test_growth_varies_one_thing_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = ("--classes-at", "1,40", "--sizes-at", "256,512", "--images-at", "1,3")
    found = json.loads(bench("growth", *points, "--classes", "2", "--json", "--out", str(tmp_path)))
    values = {axis: [p["value"] for p in points] for axis, points in found["axes"].items()}
    assert values == {"classes": [1, 40], "size": [256, 512], "images": [1, 3]}
    for points_of in found["axes"].values():
        for point in points_of:
            assert {"vae", "unet", "assign"} <= point["stages_s"].keys()
            assert 0 < point["after_share"] < 1
            assert point["peak_bytes"] > 50e6
    assert Image.open(tmp_path / "growth.png").width > 500
    assert (tmp_path / "growth.json").exists()


def test_help_imports_nothing_heavy_and_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "sys.modules['matplotlib'] = sys.modules['scipy'] = None\n"
        "from click.testing import CliRunner; from mdrt.cli import main\n"
        "def run(*words): return CliRunner().invoke(main, words)\n"
        "done = run('bench', '--help'); assert 'onnxruntime' not in sys.modules\n"
        "assert 'growth' in done.stdout and 'gallery' not in done.stdout\n"
        "for name in ('latency', 'growth', 'parity'):\n"
        "    assert run('bench', name, '--help').exit_code == 0\n"
        "done = run('bench', 'parity', '--pipeline', '.')\n"
        "assert done.exit_code == 1, done.output; print(done.output)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bench parity needs onnx, which is not installed" in done.stdout
    assert "run `pip install '.[export,bench]'`" in done.stdout


def test_parity_compares_every_tensor_and_label(storybook: Path) -> None:
    found = json.loads(bench("parity", "--pipeline", str(storybook), "--classes", "3", "--json"))
    assert {row["graph"] for row in found["tensors"]} == {
        "vae_encoder.onnx",
        "text_encoder.onnx",
        "keys.onnx",
        "values.onnx",
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
