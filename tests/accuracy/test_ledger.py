"""What a figure is of stands beside it, and figures of two things are not put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mdrt.benchmarks.accuracy.ledger import Ledger, told
from mdrt.benchmarks.accuracy.settings import Entry, Setting
from mdrt.cli import main

META = {"dataset": "scenes", "split": "val", "classes": [["sky"], ["sea"]], "bundle": "ab" * 32}


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def ledger(protocol: str = "miou", head: str = "attention", **values: Any) -> Ledger:
    return Ledger.of(META, Entry(Setting.of(head, **values), protocol), 7)


@pytest.mark.parametrize(
    ("made", "facts"),
    [
        (ledger(), {"classes": "all", "background": "none", "threshold": None, "segments": ""}),
        (ledger(prompt_classes="present"), {"classes": "present"}),
        (ledger(threshold=0.3), {"background": "threshold", "chosen_on": "not said"}),
        (ledger("miou-256x352"), {"label_size": "256×352, nearest", "average": "data set"}),
        (ledger("miou-by-image"), {"average": "mean over pictures"}),
        (ledger("hungarian-image-320", "kmeans"), {"label_size": "the middle 320×320"}),
        (ledger("hungarian-image", "kmeans"), {"classes": "none", "segments": "present"}),
        (ledger("hungarian-image", "kmeans", segments=6), {"segments": "6"}),
        (ledger("hungarian-image", "diffseg"), {"segments": "auto"}),
    ],
)
def test_what_a_figure_is_of(made: Ledger, facts: dict[str, Any]) -> None:
    assert {name: getattr(made, name) for name in facts} == facts
    assert (made.dataset, made.split, made.pictures, made.bundle) == ("scenes", "val", 7, "ab" * 32)


def test_a_background_among_the_classes_is_told() -> None:
    meta: dict[str, Any] = {**META, "classes": [["background"], ["sea"]], "chosen_on": "train"}
    plain = Entry(Setting.of("attention"), "miou")
    assert Ledger.of(meta, plain, 1).background == "class background"
    cut = Ledger.of(meta, Entry(Setting.of("attention", threshold=0.5), "miou"), 1)
    assert (cut.background, cut.chosen_on) == ("class background, threshold", "train")
    best = Ledger.of(meta, Entry(Setting.of("attention"), "miou-best-threshold"), 1, 0.42)
    assert (best.threshold, best.chosen_on) == (0.42, "the evaluated split")


def test_lines_say_what_is_shared_once_and_what_differs_by_row() -> None:
    lines = told([ledger(), ledger(prompt_classes="present"), ledger()])
    assert lines[0].startswith("data set scenes; split val; labels scored at every pixel; ")
    assert lines[0].endswith("bundle abababababab")
    assert lines[1:] == ["classes in the prompt: all (rows 1, 3); present (row 2)"]


def test_every_report_has_it(tmp_path: Path) -> None:
    run = ("run", "scenes", "--limit", 1, "--head", "attention", "-o", tmp_path)
    done = evaluate(*run, "--set", "threshold=0.2", "--chosen-on", "train")
    assert "threshold 0.2, chosen on train" in done.stdout
    assert "Data set scenes; split val;" in (tmp_path / "report.md").read_text()
    (result,) = json.loads((tmp_path / "report.json").read_text())["results"]
    assert result["ledger"]["pictures"] == 1
    assert result["ledger"]["chosen_on"] == "train"
    assert len(result["ledger"]["bundle"]) == 64
    other = evaluate(*run, "--set", "threshold=0.2", "--chosen-on", "val")
    assert other.exit_code == 1
    assert "holds results with chosen_on 'train', asked for is 'val'" in other.stderr


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (["--prompt-classes", "present"], "classes 'all' and not 'present' as in"),
        (["--set", "timestep=9"], "with settings"),
        (["--protocol", "miou-256x352"], "with protocol 'miou' and not 'miou-256x352' as in"),
        (["--split", "train"], "with split 'val' and not 'train' as in"),
    ],
)
def test_what_differs_is_not_merged(tmp_path: Path, other: list[str], part: str) -> None:
    run = ("run", "scenes", "--limit", 2, "--head", "attention", "-o")
    assert evaluate(*run, tmp_path / "1", "--shard", "1/2").exit_code == 0
    assert evaluate(*run, tmp_path / "2", "--shard", "2/2", *other).exit_code == 0
    done = evaluate("merge", tmp_path / "all", tmp_path / "1", tmp_path / "2")
    assert done.exit_code == 1
    assert part in done.stderr
    assert "only shards of one evaluation can be merged" in done.stderr
    assert not (tmp_path / "all").exists()
