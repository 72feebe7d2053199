"""`mdrt segment --profile`: one trace of stages and graph nodes, on one clock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mdrt.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The trace of two pictures."""
    folder = tmp_path_factory.mktemp("trace")
    for name in ("valley.png", "cottage.png"):
        shutil.copy(EXAMPLES / name, folder)
    trace = folder / "trace.json"
    arguments = ["segment", folder, "--profile", trace, "--out", folder / "out"]
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "ui.perfetto.dev" in done.stderr
    found: list[dict[str, Any]] = json.loads(trace.read_text())["traceEvents"]
    return found


def spans(events: list[dict[str, Any]], row: str) -> list[dict[str, Any]]:
    """What ran on the row of that name."""
    rows = {
        event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"
    }
    return [event for event in events if event["ph"] == "X" and event["tid"] == rows[row]]


def names(found: list[dict[str, Any]]) -> list[str]:
    return [event["name"] for event in found]


def test_every_event_is_one_of_chromes(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert event["ph"] in ("X", "M")
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
        assert {"pid", "tid", "name", "args"} <= event.keys()


def test_stages_of_every_picture_and_the_threads_around_them(events: list[dict[str, Any]]) -> None:
    main_row = spans(events, "mdrt, MainThread")
    for stage in ("segment", "vae", "unet", "attention", "prototypes", "assign"):
        assert names(main_row).count(stage) >= 2
    assert names(spans(events, "mdrt, reader_0")) == ["read", "read"]
    written = spans(events, "mdrt, writer_0")
    assert names(written) == ["write", "write"]
    assert {Path(event["args"]["picture"]).name for event in written} == {
        "valley.png",
        "cottage.png",
    }


def test_nodes_lie_within_the_stage_that_ran_their_graph(events: list[dict[str, Any]]) -> None:
    stages = [s for s in spans(events, "mdrt, MainThread") if s["name"] == "unet"]
    nodes = [e for e in spans(events, "unet.onnx") if e["cat"] == "node"]
    assert {"Conv", "Softmax"} <= set(names(nodes))
    slack = 1000  # µs: two clocks are read one after the other when a trace begins
    for node in nodes:
        start, end = node["ts"], node["ts"] + node["dur"]
        assert any(
            stage["ts"] - slack <= start and end <= stage["ts"] + stage["dur"] + slack
            for stage in stages
        )
    assert all(node["args"]["output_type_shape"] for node in nodes)


def test_nothing_is_left_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trace = tmp_path / "t.json"
    arguments = ["segment", str(EXAMPLES / "valley.png"), "--profile", str(trace)]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.json"]
