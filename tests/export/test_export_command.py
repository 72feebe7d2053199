"""The command line of the exporter; what it calls is tested elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mdrt.cli.export import export_command
from mdrt.export import exporter
from mdrt.export.exporter import ExportReport, ProofError
from mdrt.export.options import ExportOptions
from mdrt.export.proof import Row
from mdrt.runtime.errors import MdrtError


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
    arguments = (
        f"model -o bundle --feature-strides 32,16 --attention-strides 32 --precision fp16 "
        f"--opset 21 --vae taesd --pooling softmax --timestep 40 --mode released --presence 0.02 "
        f"--sharpness 1.5 --attention 0.4 --refine --segments-timestep 20 "
        f"--segments-sharpness 4 "
        f"--classes {names} --overwrite --json"
    )
    result = CliRunner().invoke(export_command, arguments.split())
    assert result.exit_code == 0, result.output
    (options,) = calls
    assert options.feature_strides == (32, 16)
    assert options.recommended.timestep == 40
    assert options.recommended.presence == 0.02
    assert options.recommended.sharpness == 1.5
    assert options.recommended.attention == 0.4
    assert options.recommended.refine
    assert options.recommended.segments_timestep == 20
    assert options.recommended.segments_sharpness == 4
    assert options.classes == (("sky",), ("traffic light", "signal"))
    assert options.vae == Path("taesd")
    record = json.loads(result.stdout)
    assert {row["tensor"] for row in record["proof"]} >= {"latent", "features_s64"}
    assert all(row["passed"] for row in record["proof"])


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
    monkeypatch.setitem(sys.modules, "mdrt.export.exporter", None)
    result = CliRunner().invoke(export_command, ["model", "-o", "bundle"])
    assert isinstance(result.exception, MdrtError)
    assert "pip install '.[export]'" in str(result.exception)


def test_failed_proof_shows_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("unet.onnx", "features_s8", ((1, 2, 3, 3),), float("nan"), 1e-4)]

    def fail(*_args: Any, **_options: Any) -> None:
        raise ProofError(rows)

    monkeypatch.setattr(exporter, "export", fail)
    result = CliRunner().invoke(export_command, ["model", "-o", "bundle"])
    assert isinstance(result.exception, MdrtError)
    assert "FAIL" in result.stderr


def test_unreadable_strides() -> None:
    arguments = ["model", "-o", "bundle", "--feature-strides", "64,x"]
    result = CliRunner().invoke(export_command, arguments)
    assert isinstance(result.exception, MdrtError)
