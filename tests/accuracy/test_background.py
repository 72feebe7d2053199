"""The best of several scores of the background, beside the published loops written out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.benchmarks.accuracy.background import BackgroundSweep, background_of
from mdrt.benchmarks.accuracy.evaluate import answer
from mdrt.benchmarks.accuracy.protocols import PROTOCOLS
from mdrt.benchmarks.accuracy.settings import Setting
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.cli import main

NAMES = ["background", "a", "b"]


def test_the_background_is_found_by_its_name() -> None:
    assert background_of([("sky",), ("other", "background")]) == 1
    assert background_of([("sky",)]) is None


@pytest.mark.parametrize("own", [False, True])
def test_labels_are_those_of_one_argmax_a_value(own: bool) -> None:
    scores = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    sweep = BackgroundSweep((-0.3, 0.0, 0.4), own)
    found = sweep.labels(scores if own else scores[1:], [0, 1, 2] if own else [1, 2], 0)
    for value, labels in zip(sweep.values, found, strict=True):
        moved = scores.copy()
        moved[0] = scores[0] * own + np.float32(value)
        np.testing.assert_array_equal(labels, moved.argmax(axis=0))


@pytest.mark.parametrize("name", ["miou-best-offset", "miou-best-threshold"])
def test_the_best_value_over_all_pictures_counts(name: str) -> None:
    protocol, random = PROTOCOLS[name], np.random.default_rng(1)
    assert protocol.sweep is not None
    values = len(protocol.sweep.values)
    truths = random.integers(0, 3, (4, 6, 7)).astype(np.uint8)
    labels = random.integers(0, 3, (4, values, 6, 7))
    counts = [protocol.count(t, each, 3, 0) for t, each in zip(truths, labels, strict=True)]
    miou = PROTOCOLS["miou"]
    alone = [
        miou.score([miou.count(truths[i], labels[i, v], 3) for i in range(4)], 3).miou
        for v in range(values)
    ]
    assert protocol.score(counts, 3).miou == pytest.approx(max(alone))
    assert protocol.chosen(counts) == protocol.sweep.values[int(np.argmax(alone))]
    for settled in protocol.settled(counts, 3):
        assert settled.shape == (3, 4)


def test_the_values_are_the_published_ones() -> None:
    offsets, thresholds = (PROTOCOLS[f"miou-best-{k}"].sweep for k in ("offset", "threshold"))
    assert offsets is not None
    assert thresholds is not None
    np.testing.assert_allclose(offsets.values, np.linspace(-0.4, 0.4, 9))
    np.testing.assert_allclose(thresholds.values, np.linspace(0.30, 0.74, 45))


@pytest.mark.parametrize("own", [False, True])
def test_names_taken_to_be_absent_win_nowhere(own: bool) -> None:
    asked: list[Any] = []

    def segment(classes: Any, head: Any, **settings: Any) -> Any:
        asked.extend(classes)
        scores = np.array([{"a": 0.9, "b": 0.5, "background": 0.1}[n] for n in classes], np.float32)
        return SimpleNamespace(
            scores=np.tile(scores[:, None, None], (1, 2, 2)),
            classes=tuple(classes),
            settings={"absent": ["a"]},
            timings={"unet": 0.5},
        )

    look: Any = SimpleNamespace(segment=segment)
    sweep = BackgroundSweep((0.3, 0.6), own)
    truth = np.zeros((2, 2), np.uint8)
    found = answer(look, Setting.of("attention"), NAMES, truth, sweep=sweep)
    assert asked == ["a", "b", *["background"] * own]
    assert [int(labels[0, 0]) for labels in found.labels] == [2, 0]  # b, then the background
    assert found.seconds[0] == 0.5


def test_a_data_set_with_a_background(tmp_path: Path) -> None:
    """From the command line: one of the scenes' classes is called background."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for seed in range(2):
        scene = render(seed)
        Image.fromarray(scene.image).save(tmp_path / f"data/images/{seed}.png")
        Image.fromarray(scene.mask).save(tmp_path / f"data/masks/{seed}.png")
    classes = [f"{name}, background" if name == "sky" else name for name in CLASSES]
    (tmp_path / "data/classes.txt").write_text("\n".join(classes))
    done = CliRunner().invoke(
        main,
        ["eval", "run", "folder", "--root", str(tmp_path / "data"), "-o", str(tmp_path / "out"),
         "--head", "attention", "--protocol", "miou-best-threshold", "--protocol", "miou"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "chosen on the evaluated split" in done.stdout
    assert "background threshold for class background" in done.stdout
    assert "background class background" in done.stdout
