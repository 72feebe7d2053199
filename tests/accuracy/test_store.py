"""What a results file is of: nothing is continued, merged or read that would mix two things."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mdrt.benchmarks.accuracy import store as stores
from mdrt.benchmarks.accuracy.store import Store
from mdrt.benchmarks.lab.__main__ import main as lab
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.cli import main
from mdrt.runtime.bundle.loading import load_bundle, record_file, write_manifest
from mdrt.runtime.errors import MdrtError
from mdrt.runtime.segmenter import EMBEDDED

COUNTS = np.arange(6).reshape(2, 3)


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def pictures(done: Result) -> list[int]:
    assert done.exit_code == 0, done.output
    return [entry["pictures"] for entry in json.loads(done.stdout)["results"]]


def folder(root: Path, seeds: range) -> Path:
    """Scenes as files, always under the names 0, 1, 2, …"""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, seed in enumerate(seeds):
        scene = render(seed)
        Image.fromarray(scene.image).save(root / f"images/{index}.png")
        Image.fromarray(scene.mask).save(root / f"masks/{index}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def with_file(folder: Path, name: str) -> Path:
    """The embedded bundle with another noise, or another VAE encoder of the same function."""
    shutil.copytree(EMBEDDED, folder)
    bundle = load_bundle(folder)
    if name == "noise.npy":
        np.save(folder / name, -bundle.noise())
    else:
        import onnx

        model = onnx.load(folder / name, load_external_data=False)
        model.producer_version = "another"
        onnx.save(model, folder / name)
    files = {**bundle.manifest.files, name: record_file(folder / name)}
    write_manifest(folder, replace(bundle.manifest, files=files))
    return folder


@pytest.mark.parametrize("name", ["noise.npy", "vae_encoder.onnx"])
def test_another_bundle_of_the_same_unet_is_not_continued(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnx")
    other = with_file(tmp_path / "other", name)
    run = ("run", "scenes", "--head", "attention", "--limit", 1, "-o", tmp_path / "out")
    assert evaluate(*run).exit_code == 0
    done = evaluate(*run, "--engine", other)
    assert done.exit_code == 1
    assert "holds results with bundle" in done.stderr
    assert "choose another folder, or delete the file (--out)" in done.stderr
    mixed = evaluate("merge", tmp_path / "all", tmp_path / "out", tmp_path / "out2")
    assert mixed.exit_code == 1


def test_another_folder_of_pictures_is_not_continued(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", range(2)), folder(tmp_path / "b", range(5, 7))
    run = ("run", "folder", "--head", "attention", "-o", tmp_path / "out", "--root")
    assert evaluate(*run, first).exit_code == 0
    done = evaluate(*run, second)
    assert done.exit_code == 1
    assert f"holds results with root '{first}', asked for is '{second}'" in done.stderr


def test_other_training_pictures_are_not_continued(tmp_path: Path) -> None:
    root, one, other = (
        folder(tmp_path / name, seeds)
        for name, seeds in (("val", range(2)), ("a", range(9, 12)), ("b", range(20, 23)))
    )
    run = ("run", "folder", "--root", root, "-o", tmp_path / "out", "--json")
    assert pictures(evaluate(*run, "--head", "attention")) == [2]  # reads no training split
    fitted = (*run, "--head", "prototypes-gt", "--train-root")
    assert pictures(evaluate(*fitted, one)) == [2]
    assert pictures(evaluate(*fitted, one)) == [2]
    done = evaluate(*fitted, other)
    assert done.exit_code == 1
    assert f"holds results with train_root '{one}', asked for is '{other}'" in done.stderr
    assert pictures(evaluate(*run, "--head", "attention", "--train-root", other)) == [2]


def test_what_a_folder_of_ones_own_is_fitted_on_must_be_said(tmp_path: Path) -> None:
    """A folder has no splits: what it is scored on would be what it is fitted on."""
    root = folder(tmp_path / "data", range(2))
    out = ("-o", tmp_path / "out")
    done = evaluate("run", "folder", "--root", root, "--head", "prototypes-gt", *out)
    assert done.exit_code == 1
    assert "give --train-root" in done.stderr
    other = folder(tmp_path / "other", range(3, 5))
    (other / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    learn = ("run", "folder", "--root", root, "--head", "prototypes-gt", "--train-root", other)
    done = evaluate(*learn, *out)
    assert done.exit_code == 1
    assert "has other classes" in done.stderr


def test_results_of_another_version_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "scenes", "--head", "attention", "--limit", 1, "-o", tmp_path / "out")
    assert evaluate(*run).exit_code == 0
    monkeypatch.setattr(stores, "RESULTS_VERSION", stores.RESULTS_VERSION + 1)
    for done in (
        evaluate(*run),
        evaluate("merge", tmp_path / "all", tmp_path / "out"),
        CliRunner().invoke(lab, ["claims", str(tmp_path / "out"), "-o", str(tmp_path)]),
    ):
        assert done.exit_code == 1
        (error,) = (t for t in done.stderr.splitlines() if not t.startswith("Warning: "))
        assert f"of results version {stores.RESULTS_VERSION - 1}" in error


def shard(path: Path, image: str, counts: Any, **places: str) -> Store:
    made = Store(path, {"classes": [["a"], ["b"]], "bundle": "x"})
    made.bind(places)
    made.add(image, {"setting": counts}, {})
    return made


def test_shards_may_have_read_from_other_places(tmp_path: Path) -> None:
    whole = Store(tmp_path / "w.sqlite", {"classes": [["a"], ["b"]], "bundle": "x"})
    whole.merge(shard(tmp_path / "1.sqlite", "1", COUNTS, root="/here", train_root="/there"))
    whole.merge(shard(tmp_path / "2.sqlite", "2", 2 * COUNTS, root="/elsewhere"))
    assert [int(counts[1, 2]) for counts in whole.counts("setting")] == [5, 10]
    other = Store(tmp_path / "3.sqlite", {"classes": [["a"], ["b"]], "bundle": "y"})
    with pytest.raises(MdrtError, match="only shards of one evaluation"):
        whole.merge(other)


def test_a_fact_is_bound_once(tmp_path: Path) -> None:
    made = shard(tmp_path / "1.sqlite", "1", COUNTS, root="/here")
    made.bind({"root": "/here"})
    with pytest.raises(MdrtError, match="holds results with root '/here', asked for is '/other'"):
        made.bind({"root": "/other"})
    made.close()
    assert Store(tmp_path / "1.sqlite").meta["root"] == "/here"


def test_what_an_earlier_mdrt_did_not_note_is_noted_when_it_goes_on(tmp_path: Path) -> None:
    made = shard(tmp_path / "1.sqlite", "1", COUNTS)
    made.close()
    facts = {"classes": [["a"], ["b"]], "bundle": "x", "vocabulary": 14}
    assert Store(tmp_path / "1.sqlite", facts).meta["vocabulary"] == 14
    with pytest.raises(MdrtError, match="holds results with vocabulary 14, asked for is None"):
        Store(tmp_path / "1.sqlite", facts | {"vocabulary": None})


def test_a_run_notes_how_many_names_the_model_knows(tmp_path: Path) -> None:
    done = evaluate("run", "scenes", "--head", "attention", "--limit", 1, "-o", tmp_path, "--json")
    assert json.loads(done.stdout)["vocabulary"] == 14


def test_a_limit_holds_for_the_report_of_a_longer_run(tmp_path: Path) -> None:
    run = ("run", "scenes", "--head", "attention", "-o", tmp_path / "out", "--json")
    alone = ("run", "scenes", "--head", "attention", "-o", tmp_path / "alone", "--json")
    assert pictures(evaluate(*run, "--limit", 4)) == [4]
    short = evaluate(*run, "--limit", 2)
    assert pictures(short) == [2]
    assert json.loads(short.stdout) == json.loads(evaluate(*alone, "--limit", 2).stdout)
    assert pictures(evaluate(*run, "--shard", "2/2", "--limit", 4)) == [2]
    assert pictures(evaluate(*run, "--limit", 4)) == [4]


def test_a_limit_holds_for_the_pictures_that_were_skipped(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", range(3))
    (root / "masks/2.png").unlink()
    run = ("run", "folder", "--root", root, "--head", "attention", "-o", tmp_path / "out")
    assert evaluate(*run).exit_code == 0
    done = evaluate(*run, "--limit", 2, "--json")
    assert json.loads(done.stdout)["problems"] == {}
    assert "Skipped" not in done.stderr
    assert "Skipped pictures: 0." in (tmp_path / "out" / "report.md").read_text()


def test_boundaries_asked_for_later_are_of_every_picture(tmp_path: Path) -> None:
    run = ("run", "scenes", "--head", "attention", "-o", tmp_path / "out", "--json")
    alone = ("run", "scenes", "--head", "attention", "-o", tmp_path / "alone", "--json")
    assert evaluate(*run, "--limit", 2).exit_code == 0
    later, at_once = (evaluate(*command, "--limit", 3, "--boundary") for command in (run, alone))
    assert json.loads(later.stdout) == json.loads(at_once.stdout)


def test_a_list_restricts_a_folder_and_is_refused_by_scenes(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", range(3))
    (tmp_path / "ids.txt").write_text("2\n0\n")
    run = ("--head", "attention", "--list", tmp_path / "ids.txt", "-o", tmp_path / "out")
    assert pictures(evaluate("run", "folder", "--root", root, *run, "--json")) == [2]
    done = evaluate("run", "scenes", *run)
    assert done.exit_code == 1
    assert "--list" in done.stderr
