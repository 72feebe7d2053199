"""The robustness table and the gallery: what is compared is what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import mdrt
from mdrt.benchmarks.lab.__main__ import main
from mdrt.benchmarks.lab.scenes import gallery, robustness, score
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.benchmarks.metrics import confusion, iou


def test_figures_are_those_of_the_segmenter(segmenter: mdrt.Segmenter) -> None:
    conditions = robustness.CONDITIONS
    found = robustness.robustness(segmenter, 2, conditions[:4])
    counts = np.zeros((14, 15), np.int64)
    for seed in range(2):
        scene = render(seed)
        index = np.array([CLASSES.index(name) for name in scene.visible])
        labels = index[segmenter(scene.image, scene.visible).labels]
        counts += confusion(scene.mask, labels, 14)
    plain, *others = found.values()
    assert plain["visible names"] == pytest.approx(np.nanmean(iou(np.roll(counts, -1, axis=1))))
    assert all(0 <= value <= 100 for row in others for value in row.values())


def test_prompts_name_each_class_once() -> None:
    rng = np.random.default_rng(3)
    asked = ["sky", "sea", "tree"]
    for condition in robustness.CONDITIONS[:3]:
        assert sorted(condition.prompt(asked, rng)) == sorted(asked)
    more = robustness.CONDITIONS[3].prompt(["sky", "tree"], rng)
    assert more[:2] == ["sky", "tree"]
    assert len(set(more)) == 5
    assert set(more) <= set(CLASSES)


@pytest.mark.parametrize("condition", robustness.CONDITIONS, ids=lambda c: c.label)
def test_pictures_have_the_shape_their_label_says(condition: robustness.Condition) -> None:
    scene = render(2, size=condition.side)
    height, width = scene.image[condition.cut].shape[:2]
    if "…" not in condition.label:
        assert condition.label.startswith(f"{width}×{height}")
    assert robustness.visible(scene.mask, condition.side) == list(scene.visible)


def test_the_score_stands_beside_both_bars(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    done = CliRunner().invoke(main, ["scenes", "--scenes", "2", "--json", str(path)])
    assert done.exit_code == 0, done.output
    figures = json.loads(path.read_text())["figures"]
    for name, ours, theirs in score.DIFFERENCES:
        assert figures[name] == pytest.approx(figures[ours] - figures[theirs])
    assert set(score.BARS) <= set(figures)
    verdicts = {name: score.beside(figures[name], 0.0) for name in score.BARS}
    assert verdicts["area under ROC"] == "0, reached"
    assert score.beside(-0.1, 0.0) == "0, not reached"
    assert score.beside(1.0, None) == ""


def test_robustness_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness.robustness, "__defaults__", (robustness.CONDITIONS[:1],))
    done = CliRunner().invoke(main, ["robustness", "--scenes", "1", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout).values()
    assert set(row) == set(robustness.COLUMNS)


def test_a_gallery_shows_the_truth_and_every_method(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.png"
    done = CliRunner().invoke(main, ["gallery", "--scenes", "2", "-o", str(out)])
    assert done.exit_code == 0, done.output
    sheet = np.asarray(Image.open(out).convert("RGB"))
    step = gallery.CELL + gallery.GAP
    assert sheet.shape[1] == len(gallery.COLUMNS) * step + gallery.GAP
    top = 3 * gallery.HEAD + gallery.GAP
    cells = [
        sheet[top : top + gallery.CELL, gallery.GAP + i * step : i * step + step]
        for i in range(len(gallery.COLUMNS))
    ]
    truth = render(next(gallery.seeds(1))).visible
    colours = {tuple(c) for c in cells[1].reshape(-1, 3).tolist()}
    assert len(colours) >= len(truth)
    for other in cells[2:]:  # no method gives the truth, none its neighbour's map
        assert (other != cells[1]).any()


def test_scenes_are_taken_in_order() -> None:
    chosen = list(gallery.seeds(3))
    assert chosen == sorted(chosen)
    assert all(len(render(seed, size=64).visible) >= gallery.LEAST_CLASSES for seed in chosen)
