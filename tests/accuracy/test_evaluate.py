"""`mdrt eval` from the command line: figures, resuming, shards, and what cannot be scored."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import mdrt
from mdrt import kernels
from mdrt.benchmarks.accuracy.evaluate import label, shard
from mdrt.benchmarks.accuracy.ledger import Ledger
from mdrt.benchmarks.accuracy.paper import Published
from mdrt.benchmarks.accuracy.report import ScoreRow, draw
from mdrt.benchmarks.accuracy.settings import HEADS, Entry, Setting
from mdrt.benchmarks.accuracy.store import Store, pack, unpack
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.cli import main
from mdrt.runtime.errors import DatasetError, MdrtError


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def report(*arguments: object) -> dict[str, Any]:
    done = evaluate(*arguments, "--json")
    assert done.exit_code == 0, done.output
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def miou(truths: list[Any], predictions: list[Any]) -> float:
    """By sets of pixels over all pictures at once, in per cent; −1 is an error."""
    truth, labels = (np.concatenate([x.ravel() for x in part]) for part in (truths, predictions))
    unions = [((truth == c) | (labels == c)).sum() for c in range(14)]
    hits = [((truth == c) & (labels == c)).sum() for c in range(14)]
    return float(np.mean([100 * h / u for h, u in zip(hits, unions, strict=True) if u]))


def renamed(truth: Any, segments: Any) -> Any:
    """By the assignment of largest overlap, as SciPy finds it; −1 for a segment too many."""
    optimize = pytest.importorskip("scipy.optimize")
    overlap = [[((truth == c) & (segments == s)).sum() for s in range(14)] for c in range(14)]
    names = np.full(max(14, segments.max() + 1) + 1, -1)  # the last is that of −1
    rows, columns = optimize.linear_sum_assignment(np.array(overlap), maximize=True)
    names[columns] = rows
    return names[segments]


def test_figures_are_those_of_the_segmenter(tmp_path: Path, segmenter: mdrt.Segmenter) -> None:
    """MaskDiffusion and attention, both modes, beside `Segmenter` and sets of pixels."""
    scenes = [render(seed) for seed in range(4)]
    for mode in ("paper", "released"):
        found = report(
            "run", "scenes", "--limit", 4, "--head", "maskdiffusion", "--head", "attention",
            "--set", f"mode={mode}", "--set", "pooling=exp", "--set", "timestep=400",
            "--set", "refine=none", "-o", tmp_path / mode,
        )  # fmt: skip
        given: dict[str, Any] = {"mode": mode, "pooling": "exp", "timestep": 400, "refine": "none"}
        results = [segmenter(scene.image, CLASSES, **given) for scene in scenes]
        alone = [kernels.resize(r.weights, r.labels.shape).argmax(axis=0) for r in results]
        for entry, labels in zip(
            found["results"], ([r.labels for r in results], alone), strict=True
        ):
            assert entry["miou"] == pytest.approx(miou([s.mask for s in scenes], labels), abs=0.05)
            assert entry["protocol"] == "miou"
            assert entry["pictures"] == 4
            assert entry["interval"][0] <= entry["miou"] <= entry["interval"][1]


def test_what_is_not_set_is_as_the_bundle_recommends(
    tmp_path: Path, segmenter: mdrt.Segmenter
) -> None:
    scenes = [render(seed) for seed in range(3)]
    found = report(
        "run", "scenes", "--limit", 3, "--head", "maskdiffusion", "--head", "spectral",
        "--segments", 4, "-o", tmp_path,
    )  # fmt: skip
    named = [segmenter(scene.image, CLASSES).labels for scene in scenes]
    unnamed = [renamed(s.mask, segmenter(s.image, segments=4).labels) for s in scenes]
    for entry, labels in zip(found["results"], (named, unnamed), strict=True):
        assert entry["miou"] == pytest.approx(miou([s.mask for s in scenes], labels), abs=0.05)
        settled = vars(segmenter.settle(entry["head"]))  # complete, and in the report
        assert entry["options"] == settled
        recommended = segmenter.manifest.recommended[entry["head"]]
        assert recommended.items() <= settled.items()


@pytest.mark.parametrize("dynamic", [False, True])
def test_void_is_a_miss_and_no_false_positive(
    tmp_path: Path, segmenter: mdrt.Segmenter, dynamic: bool
) -> None:
    """Named and unnamed, with a threshold that leaves about a third to none of the classes."""
    scenes, given = [render(seed) for seed in range(3)], {"threshold": 0.6}
    found = report(
        "run", "scenes", "--limit", 3, "--head", "maskdiffusion", "--head", "spectral",
        "--segments", 4, "--set", "threshold=0.6",
        "--prompt-classes", "present" if dynamic else "all", "-o", tmp_path,
    )["results"]  # fmt: skip
    named, unnamed = [], []
    for scene in scenes:
        names = [CLASSES[c] for c in np.unique(scene.mask)] if dynamic else list(CLASSES)
        labels = segmenter(scene.image, names, **given).labels
        own = np.array([CLASSES.index(name) for name in names])
        named.append(np.where(labels == 255, -1, own[np.minimum(labels, len(own) - 1)]))
        segments = segmenter(scene.image, segments=4, **given).labels.astype(int)
        unnamed.append(renamed(scene.mask, np.where(segments == 255, -1, segments)))
    assert 0.05 < np.mean([labels == -1 for labels in named]) < 0.95
    truths = [scene.mask for scene in scenes]
    for entry, predictions in zip(found, (named, unnamed), strict=True):
        assert entry["miou"] == pytest.approx(miou(truths, predictions), abs=0.05)
        right = np.mean([t == p for t, p in zip(truths, predictions, strict=True)])
        assert entry["accuracy"] == pytest.approx(100 * right, abs=0.05)


@pytest.mark.parametrize(("classes", "kind"), [(3, np.uint8), (300, np.uint16)])
def test_void_has_no_class_in_maps_of_any_type(classes: int, kind: type) -> None:
    void = np.iinfo(kind).max
    labels = np.array([[0, 1, void]], kind)
    look: Any = SimpleNamespace(
        segment=lambda *_, **__: SimpleNamespace(labels=labels, timings={}),
        segments=lambda *_, **__: SimpleNamespace(labels=labels, classes=("a", "b"), timings={}),
    )
    truth = np.array([[2, 1, 255]], np.uint8)
    names = [str(index) for index in range(classes)]
    for setting, expected in (
        (Setting.of("maskdiffusion"), [0, 1, -1]),
        (Setting.of("maskdiffusion", prompt_classes="present"), [1, 2, -1]),
        (Setting.of("spectral"), [0, 1, -1]),
    ):
        assert label(look, setting, names, truth).tolist() == [expected]


@pytest.mark.parametrize("head", ["maskdiffusion", "attention"])
def test_predicted_classes_are_those_that_win_a_first_pass(
    segmenter: mdrt.Segmenter, head: str
) -> None:
    """No truth is asked: that of another picture changes nothing."""
    scene, other = render(0), render(1)
    setting = Setting(
        head, segmenter.settle(head), prompt_classes="predicted", prompt_presence=0.02
    )
    found = label(segmenter.look(scene.image), setting, CLASSES, other.mask)
    first = segmenter(
        scene.image, CLASSES, pooling="softmax", presence=0.02, refine="none", threshold=0
    )
    names = [name for name in CLASSES if name not in first.settings["absent"]]
    assert 1 <= len(names) < len(CLASSES)
    labels = segmenter(scene.image, names, head=head).labels
    own = np.array([CLASSES.index(name) for name in names])
    np.testing.assert_array_equal(found, own[labels])


def test_prototypes_take_what_is_recommended_to_maskdiffusion(
    tmp_path: Path, segmenter: mdrt.Segmenter
) -> None:
    (found,) = report(
        "run", "scenes", "--limit", 1, "--train-limit", 2, "--head", "prototypes-gt",
        "--set", "timestep=3", "-o", tmp_path,
    )["results"]  # fmt: skip
    own = {"timestep": 3, "features": "decoder", "scales": False}
    whole = vars(segmenter.settle("maskdiffusion")) | own
    assert found["options"] == {name: whole[name] for name in found["options"]}
    assert {"mode", "refine", "timestep"} <= found["options"].keys()


def test_a_head_of_the_registry_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line there, and it is in `list` and `run`, and its options in the report."""
    toy = replace(mdrt.runtime.heads.HEADS["attention"], name="toy", help="a toy to play with")
    monkeypatch.setitem(mdrt.runtime.heads.HEADS, "toy", toy)  # type: ignore[arg-type]
    assert "a toy to play with" in evaluate("list").stdout
    found = report(
        "run", "scenes", "--limit", 1, "--head", "toy", "--set", "pooling=softmax", "-o", tmp_path
    )
    assert found["results"][0]["head"] == "toy"
    assert found["results"][0]["options"]["pooling"] == "softmax"
    assert "| toy | pooling=softmax |" in (tmp_path / "report.md").read_text()


def test_a_setting_is_of_every_head_that_has_it(tmp_path: Path) -> None:
    found = report(
        "run", "scenes", "--limit", 1, "--head", "maskdiffusion", "--head", "kmeans",
        "--set", "map_power=3", "--set", "timestep=5", "-o", tmp_path,
    )["results"]  # fmt: skip
    assert [entry["options"]["timestep"] for entry in found] == [5, 5]
    assert found[0]["options"]["map_power"] == 3
    assert "map_power" not in found[1]["options"]


NOT_OFFERED = ("diffseg", "seg4diff", "seg4diff-segments", "maskclip", "gem")
"""Heads that read what the embedded model has not."""


def test_every_head_and_protocol(tmp_path: Path, segmenter: mdrt.Segmenter) -> None:
    every = [name for name, head in HEADS.items() if head.offered(segmenter.manifest)]
    assert {"prototypes-gt", *mdrt.runtime.heads.HEADS} == {*every, *NOT_OFFERED}
    heads = [part for name in every for part in ("--head", name)]
    found = report(
        "run", "scenes", "--limit", 2, "--train-limit", 3, *heads, "--boundary", "-o", tmp_path
    )
    assert [entry["head"] for entry in found["results"]] == every
    for entry in found["results"]:
        named = HEADS[entry["head"]].kind == "named"
        assert entry["protocol"] == ("miou" if named else "hungarian-image")
        assert 0 < entry["miou"] <= 100
        assert (entry["boundary_iou"] is not None) == named
    dynamic = report(
        "run", "scenes", "--limit", 2, "--prompt-classes", "present", "--protocol", "miou",
        "--protocol", "miou-256x352", "--protocol", "hungarian-dataset", "-o", tmp_path,
    )  # fmt: skip
    assert [e["protocol"] for e in dynamic["results"]] == [
        "miou", "miou-256x352", "hungarian-dataset",
    ]  # fmt: skip
    assert (tmp_path / "report.md").read_text().count("| maskdiffusion |") == 3


def test_a_crop_is_segmented_as_cut(tmp_path: Path) -> None:
    found = report(
        "run", "scenes", "--limit", 1, "--head", "kmeans", "--protocol", "hungarian-image-320",
        "--protocol", "hungarian-image", "-o", tmp_path,
    )  # fmt: skip
    counts = [
        Store(tmp_path / "results.sqlite").counts(key)[0]
        for key in Store(tmp_path / "results.sqlite").settings()
    ]
    assert sorted(int(count.sum()) for count in counts) == [256 * 256, 320 * 320]
    assert len(found["results"]) == 2


def test_shards_merge_to_the_whole(tmp_path: Path) -> None:
    common = ("run", "scenes", "--limit", 5, "--head", "attention")
    whole = report(*common, "-o", tmp_path / "whole")
    for i in (1, 2, 3):
        report(*common, "--shard", f"{i}/3", "-o", tmp_path / f"s{i}")
    merged = report("merge", tmp_path / "all", *(tmp_path / f"s{i}" for i in (1, 2, 3)))
    assert merged == whole
    other = tmp_path / "other"
    report("run", "scenes", "--limit", 1, "--head", "attention", "--split", "train", "-o", other)
    done = evaluate("merge", tmp_path / "bad", tmp_path / "s1", other)
    assert done.exit_code == 1
    assert "only shards of one evaluation can be merged" in done.stderr


def test_a_rerun_does_only_what_is_missing(tmp_path: Path) -> None:
    first = evaluate("run", "scenes", "--limit", 2, "-o", tmp_path)
    assert "2 pictures in" in first.stderr
    again = evaluate("run", "scenes", "--limit", 2, "-o", tmp_path)
    assert "pictures in" not in again.stderr
    more = evaluate("run", "scenes", "--limit", 3, "-o", tmp_path)
    assert "1 pictures in" in more.stderr
    done = evaluate("run", "scenes", "--limit", 1, "--split", "train", "-o", tmp_path)
    assert done.exit_code == 1
    assert "holds results with split 'val', asked for is 'train'" in done.stderr


SWEEP = (
    "sweep", "scenes", "--limit", "6", "--train-limit", "3", "--tables", "features,4,7",
    "--timesteps", "0,400",
)  # fmt: skip


def test_a_killed_sweep_gives_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    whole = report(*SWEEP, "-o", tmp_path / "whole")
    command = "from mdrt.cli import main; main()"
    killed = tmp_path / "killed"
    for pictures in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", command, "eval", *SWEEP, "-o", str(killed)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            path = killed / "results.sqlite"
            if path.exists() and len(_done(path)) >= pictures:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
    assert len(_done(killed / "results.sqlite")) >= 3
    assert report(*SWEEP, "-o", killed) == whole
    assert {path.name for path in killed.glob("*.png")} == {"features.png", "4.png", "7.png"}
    assert Image.open(killed / "features.png").width > 500
    page = (killed / "report.md").read_text()
    assert "## Timestep (Table 4)" in page
    assert "| maskdiffusion | exp, timestep 400 |" in page


def _done(path: Path) -> set[str]:
    try:
        return set(Store(path).done())
    except MdrtError:
        return set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scenes as files, with everything that can be wrong."""
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for seed in range(4):
        scene = render(seed)
        Image.fromarray(scene.image).save(root / f"images/{seed}.png")
        Image.fromarray(scene.mask).save(root / f"masks/{seed}.png")
    Image.fromarray(np.full((256, 256), 255, np.uint8)).save(root / "masks/1.png")  # void only
    (root / "masks/2.png").unlink()
    (root / "images/3.png").write_bytes(b"no picture")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def test_what_cannot_be_scored_is_named_and_skipped(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = evaluate("run", "folder", "--root", folder, "-o", out)
    assert done.exit_code == 0, done.output
    assert "Warning: 1 of 4 pictures have no mask, as 2" in done.stderr
    assert "Skipped: mask" in done.stderr
    values = json.loads((out / "report.json").read_text())
    assert set(values["problems"]) == {"2", "3"}
    assert values["results"][0]["pictures"] == 2  # the void one counts nothing, and is no problem
    done = evaluate("run", "folder", "--root", folder, "-o", tmp_path / "f", "--on-error", "fail")
    assert done.exit_code == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "cityscapes19"], "needs a root, the folder it lies in (--root)"),
        (["run", "scenes", "--shard", "4/3"], "expected i/n"),
        (["run", "scenes", "--split", "test"], "no split 'test'"),
        (["run", "scenes", "--set", "timestep=1000"], "expected 0 to 999"),
        (["run", "scenes", "--set", "feature_strides=8"], "feature_strides holds 8"),
        (["run", "scenes", "--set", "glow=8"], "has no setting glow; it has timestep, refine"),
        (["run", "scenes", "--head", "moon"], "head 'moon' is none of maskdiffusion"),
        (["run", "scenes", "--method", "kmeans"], "--method is now --head"),
        (["run", "scenes", "--head", "kmeans", "--protocol", "miou"], "takes labels as classes"),
        (["run", "scenes", "--protocol", "miou-best-offset"], "data sets with a class background"),
        (["run", "scenes", "--dynamic-prompts"], "is now --prompt-classes present"),
        (["run", "scenes", "--prompt-presence", "0.1"], "is of --prompt-classes predicted"),
        (["compare", "scenes", "--head", "attention:pooling"], "expected NAME:SETTING=VALUE"),
        (["run", "scenes", "--segments", "0"], "expected present, auto"),
        (["sweep", "scenes", "--tables", "9"], "--tables 9: choose of"),
        (["sweep", "scenes", "--timesteps", "0,x"], "no list of numbers"),
        (["sweep", "scenes", "--timestep", "-1"], "timestep is -1"),
        (["merge", "out", "nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], part: str) -> None:
    options = [] if arguments[0] == "merge" else ["-o", str(tmp_path)]
    done = evaluate(*arguments, *options)
    assert done.exit_code in (1, 2)
    assert part in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"not a database, but long enough to be one" * 30)
    done = evaluate("run", "scenes", "--limit", 1, "-o", tmp_path)
    assert done.exit_code == 1
    assert "is no result file of mdrt eval" in done.stderr


def test_the_list_names_everything() -> None:
    done = evaluate("list")
    for name in ("cityscapes27", "ADE", "annotations/validation", "kmeans", "hungarian-image-512"):
        assert name in done.stdout or name == "ADE"


def test_counts_survive_packing() -> None:
    random = np.random.default_rng(0)
    for shape in [(1, 2), (171, 172), (3, 40)]:
        counts = random.integers(0, 2**40, shape) * (random.random(shape) < 0.1)
        np.testing.assert_array_equal(unpack(pack(counts)), counts)
    np.testing.assert_array_equal(unpack(pack(np.zeros((4, 5), np.int64))), np.zeros((4, 5)))


def test_an_entry_survives_its_key() -> None:
    setting = Setting.of("kmeans", timestep=3, feature_strides=(32, 16), segments=4, refine="pamr")
    entry = Entry(setting, "hungarian-image")
    assert Entry.from_key(entry.key) == entry
    assert json.loads(Entry(Setting.of("spectral"), "miou").key)["setting"] == {"head": "spectral"}
    assert setting.words == "timestep=3, refine=pamr, feature_strides=32,16, segments 4"
    with pytest.raises(MdrtError, match="no setting glow"):
        Entry.from_key(entry.key.replace("refine", "glow"))


def test_shards_part_the_pictures() -> None:
    parts = [shard(10, f"{i}/3", 8) for i in (1, 2, 3)]
    assert sorted(index for part in parts for index in part) == list(range(8))
    for text in ("0/3", "4/3", "x", "1/", "1/0"):
        with pytest.raises(DatasetError):
            shard(10, text, None)


def test_a_chart_marks_the_papers_figure_where_it_has_one() -> None:
    pytest.importorskip("matplotlib")
    entry = Entry(Setting.of("spectral"), "hungarian-image")
    meta = {"dataset": "cityscapes19", "split": "val", "classes": [["road"]], "bundle": "0" * 64}
    row = ScoreRow(entry, Ledger.of(meta, entry, 9), 9, 30.0, 28.0, 33.0, 60.0, None, (30.0,))
    known = Published("cityscapes19", "spectral", 28.5, "Table 3")

    def orange(paper: Published | None) -> int:
        file = io.BytesIO()
        draw("Table 3", ["spectral"], [replace(row, paper=paper)], file)
        pixels = np.asarray(Image.open(file).convert("RGB"))
        return int((pixels == (0xD9, 0x5F, 0x02)).all(axis=-1).sum())

    assert orange(known) > 20
    assert orange(None) == 0


def test_help_needs_no_extra() -> None:
    """Nor does the list: SciPy, Matplotlib and onnx are imported where they are used."""
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('scipy', 'matplotlib', 'onnx', 'torch', 'onnxruntime'))\n"
        "from click.testing import CliRunner\n"
        "from mdrt.cli import main\n"
        "for words in (['--help'], ['run', '--help-all'], ['sweep', '--help'], ['merge', '-h'],\n"
        "              ['list']):\n"
        "    done = CliRunner().invoke(main, ['eval', *words])\n"
        "    assert done.exit_code == 0, done.output\n"
        "print(CliRunner().invoke(main, ['eval', 'run', 'scenes']).stderr)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eval run needs scipy" in done.stdout
    assert "pip install '.[bench]'" in done.stdout


def test_plain_help_is_short() -> None:
    for command in ("run", "sweep"):
        lines = evaluate(command, "--help").stdout.splitlines()
        assert sum(line.lstrip().startswith("-") for line in lines) <= 12
        assert "--shard" in evaluate(command, "--help-all").stdout
