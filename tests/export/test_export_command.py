"""The command line of the exporter; what it calls is tested elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mdrt.cli import main
from mdrt.cli.export import export_command
from mdrt.export import exporter
from mdrt.export.exporter import ExportReport, ProofError
from mdrt.export.options import ExportOptions
from mdrt.export.proof import Row
from mdrt.runtime.errors import MdrtError

BEST = """
[maskdiffusion]
pooling = "softmax"
timestep = 40
map_power = 2
refine = "guided"

[spectral]
affinity = "cells"
affinity_power = 4
feature_strides = [16, 32]
"""


@pytest.fixture
def calls(sd1_report: ExportReport, monkeypatch: pytest.MonkeyPatch) -> list[ExportOptions]:
    """The options of each export the command asks for; nothing is exported."""
    seen: list[ExportOptions] = []

    def record(_model: str, _output: Path, options: ExportOptions, **_rest: Any) -> ExportReport:
        seen.append(options)
        return sd1_report

    monkeypatch.setattr(exporter, "export", record)
    return seen


def test_defaults_are_the_papers(calls: list[ExportOptions], sd1_report: ExportReport) -> None:
    result = CliRunner().invoke(export_command, ["model", "-o", "bundle"])
    assert result.exit_code == 0, result.output
    assert calls == [ExportOptions()]
    for row in sd1_report.proof:
        assert row.tensor in result.stdout  # not cut where standard output has no width
    assert "proved" in result.stdout


def test_options_arrive(calls: list[ExportOptions], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("sky\ntraffic light, signal\n\n")
    best = tmp_path / "best.toml"
    best.write_text(BEST)
    arguments = (
        f"model -o bundle --feature-strides 32,16 --attention-strides 32 --precision fp16 "
        f"--opset 21 --vae taesd --recommend {best} --classes {names} --overwrite --json"
    )
    result = CliRunner().invoke(export_command, arguments.split())
    assert result.exit_code == 0, result.output
    (options,) = calls
    assert options.feature_strides == (32, 16)
    assert options.recommended == {
        "maskdiffusion": {
            "pooling": "softmax",
            "timestep": 40,
            "map_power": 2.0,
            "refine": "guided",
        },
        "spectral": {"affinity": "cells", "affinity_power": 4.0, "feature_strides": (32, 16)},
    }
    assert type(options.recommended["maskdiffusion"]["map_power"]) is float  # as it is declared
    assert options.classes == (("sky",), ("traffic light", "signal"))
    assert options.vae == "taesd"
    record = json.loads(result.stdout)
    assert {row["tensor"] for row in record["proof"]} >= {"latent", "features_s64"}
    assert all(row["passed"] for row in record["proof"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[maskdiffusion]\nsharpness = 2", ["maskdiffusion", "no setting sharpness", "map_power"]),
        ("[maskdiffusion]\nattention = 2", ["attention is 2", "0 to 1"]),
        ("[maskdiffusion]\nrefine = true", ["refine is True", "none, guided, pamr"]),
        ("[maskdiffusion]\npresence = 0.1", ["presence 0.1", "softmax"]),
        ("[watershed]\nlevel = 2", ["'watershed'", "maskdiffusion", "kmeans"]),
        ("timestep = 40", ["timestep is 40", "a head's settings"]),
        ("[maskdiffusion", ["best.toml is no TOML", "Expected"]),
        (None, ["best.toml cannot be read"]),
    ],
)
def test_a_wrong_recommendation_is_said_before_anything_is_loaded(
    calls: list[ExportOptions], tmp_path: Path, text: str | None, words: list[str]
) -> None:
    best = tmp_path / "best.toml"
    if text is not None:
        best.write_text(text)
    result = CliRunner().invoke(main, ["export", "model", "-o", "b", "--recommend", str(best)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line
    assert not calls


@pytest.mark.parametrize(
    ("option", "now"),
    [
        ("--output", "--out"),
        ("--sharpness", "[maskdiffusion] map_power = …"),
        ("--segments-sharpness", "[spectral] affinity_power = …"),
        ("--no-refine", "[maskdiffusion] refine = …"),
    ],
)
def test_an_option_of_earlier_versions_names_its_successor(option: str, now: str) -> None:
    result = CliRunner().invoke(main, ["export", "model", option, "x"])
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{option} is now" in line
    assert line.endswith(now)


def test_an_existing_bundle_is_kept_and_the_options_are_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", "nowhere", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.strip().endswith("(--out or --overwrite)")


@pytest.mark.parametrize(("precision", "warned"), [("bf16", 1), ("fp16", 0)])
def test_bfloat16_is_said_to_need_a_gpu(
    calls: list[ExportOptions], precision: str, warned: int
) -> None:
    arguments = ["model", "-o", "bundle", "--json", "--precision", precision]
    result = CliRunner().invoke(export_command, arguments)
    json.loads(result.stdout)
    assert result.stderr.count("--provider cuda") == warned


def test_class_list_is_split(calls: list[ExportOptions]) -> None:
    CliRunner().invoke(export_command, ["model", "-o", "b", "--classes", "sky, red car ,"])
    assert calls[0].classes == (("sky",), ("red car",))


def test_missing_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mdrt.export.exporter")
    for name in [name for name in sys.modules if name.startswith("mdrt.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = CliRunner().invoke(export_command, ["model", "-o", "bundle"])
    assert isinstance(result.exception, MdrtError)
    assert "export needs diffusers" in str(result.exception)
    assert "pip install '.[export]'" in str(result.exception)


def test_failed_proof_shows_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("unet.onnx", "features_s8", ((1, 2, 3, 3),), float("nan"), 1e-4)]

    def fail(*_args: Any, **_options: Any) -> None:
        raise ProofError(rows)

    monkeypatch.setattr(exporter, "export", fail)
    result = CliRunner().invoke(export_command, ["model", "-o", "bundle"])
    assert isinstance(result.exception, MdrtError)
    assert "FAIL" in result.stderr
    assert result.exception.remedy == {"precision": "fp32"}


def test_unreadable_strides() -> None:
    arguments = ["model", "-o", "bundle", "--feature-strides", "64,x"]
    result = CliRunner().invoke(export_command, arguments)
    assert isinstance(result.exception, MdrtError)
