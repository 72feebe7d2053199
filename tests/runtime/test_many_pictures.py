"""`mdrt segment` on folders: trees, what is passed over, what is told, interruptions."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from reading import Worked, run

from mdrt.runtime.bundle.contract import digest
from mdrt.runtime.segmenter import EMBEDDED


@pytest.fixture
def album(picture, tmp_path):
    """Five pictures in three folders, and things that are none."""
    root = tmp_path / "album"
    for place in ("a.png", "b.jpg", "sea/a.png", "sea/far/c.webp", "sea/far/d.bmp"):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:64, :64]).save(path)
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    Image.fromarray(picture).save(root / ".hidden" / "x.png")
    return root


def label_maps(out):
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    return sorted(name for name in found if not name.endswith(".overlay.png"))


def test_a_tree_is_kept(album, tmp_path):
    out = tmp_path / "out"
    result = run(album, "--classes", "sky, water", "--out", out)
    assert result.exit_code == 0, result.output
    assert label_maps(out) == ["a.png", "b.png"]
    result = run(album, "--recursive", "--classes", "sky, water", "--out", out)
    assert result.exit_code == 0, result.output
    assert label_maps(out) == [
        "a.png", "b.png", "sea/a.png", "sea/far/c.png", "sea/far/d.png",
    ]  # fmt: skip
    record = json.loads((out / "sea" / "far" / "c.json").read_text())
    assert record["image"] == str(album / "sea" / "far" / "c.webp")
    assert record["files"]["labels"] == str(out / "sea" / "far" / "c.png")


def test_a_folder_with_pictures_further_down_only(album):
    for name in ("a.png", "b.jpg"):
        (album / name).unlink()
    result = run(album, "--classes", "sky")
    assert result.exit_code == 1
    assert "--recursive looks into its folders too" in result.output


def test_results_are_no_pictures(album):
    """Neither those beside the pictures nor those in a folder under theirs."""
    for folder in (album, album / "sea"):  # whose results would replace them
        Image.open(folder / "a.png").save(folder / "a.tif")
        (folder / "a.png").unlink()
    for out in (album, album / "results"):
        for _ in range(2):
            result = run(album, "--recursive", "--classes", "sky, water", "--out", out, "--json")
            assert len(result.stdout.splitlines()) == 5, result.output
    assert not list(album.rglob("*overlay.overlay*"))
    assert not list(album.rglob("*-2.png"))


def test_more_than_a_few_pictures_have_one_line(album, tmp_path):
    result = run(album, "--recursive", "--classes", "sky, water, car", "--out", tmp_path / "out")
    (line,) = result.stdout.splitlines()
    assert line.startswith("5 of 5 pictures in ")
    assert f"results in {tmp_path / 'out'};" in line
    assert "sky in 5" in line
    assert line.endswith("in none car")
    result = run(album, "--recursive", "--segments", "3", "--out", tmp_path / "out")
    assert "3 to 3 segments a picture" in result.stdout


def test_a_few_have_a_table_each_with_what_was_not_found(picture_file, tmp_path):
    names = "sky, water, zebra"
    found = json.loads(run(picture_file, "--classes", names, "--json", "-o", tmp_path / "o").stdout)
    assert found["classes"][2]["pixels"] == 0  # presence leaves it out
    lines = run(picture_file, "--classes", names, "-o", tmp_path / "o").stdout.splitlines()
    assert [line.split() for line in lines if "zebra" in line] == [["zebra", "not", "found"]]
    assert "\x1b" not in "".join(lines)


def test_none_of_these(picture_file, tmp_path):
    arguments = [picture_file, "--classes", "sky", "--set", "threshold=0.9", "-o", tmp_path / "o"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "none of these" in result.stdout
    labels = np.asarray(Image.open(tmp_path / "o" / "scene.png"))
    record = json.loads((tmp_path / "o" / "scene.json").read_text())
    assert record["void"] == (labels == 255).sum() > 0


def test_quiet(album, tmp_path):
    (album / "bad.png").write_bytes(b"")
    result = run(album, "--classes", "sky, water", "--quiet", "--out", tmp_path / "out")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Warning", "Error", "Error"]
    assert "drawn scenes only" in lines[0]


def test_a_failed_picture_is_in_the_json_too(picture_file, tmp_path):
    missing = tmp_path / "nope.png"
    result = run(missing, picture_file, "--classes", "sky", "--json", "--out", tmp_path / "out")
    assert result.exit_code == 1
    bad, good = map(json.loads, result.stdout.splitlines())
    assert bad == {
        "schema": 4,
        "image": str(missing),
        "error": f"image {missing} does not exist; give the path of a picture",
    }
    assert good["image"] == str(picture_file)


def test_pictures_of_kinds_that_are_not_read_are_told_of(album, tmp_path):
    for name in ("x.heic", "y.HEIC", "z.dng"):
        (album / name).write_bytes(b"")
    result = run(album, "--classes", "sky", "--out", tmp_path / "out")
    assert "Note: passed over 2 .heic files" in result.stderr
    assert "Note: passed over 1 .dng file;" in result.stderr


def test_results_that_are_there_are_passed_over(album, tmp_path, monkeypatch):
    worked = Worked(monkeypatch)
    call = [album, "--recursive", "--classes", "sky, water", "-o", tmp_path / "out"]
    again = [*call, "--skip-existing"]
    every = ["a.png", "a.png", "b.jpg", "c.webp", "d.bmp"]
    assert worked.by(*again) == every
    assert worked.by(*again) == []
    assert "5 were there already" in run(*again).stdout
    (tmp_path / "out" / "b.overlay.png").unlink()
    (tmp_path / "out" / "sea" / "a.png").unlink()
    assert worked.by(*again) == ["a.png", "b.jpg"]
    os.utime(album / "sea" / "far" / "c.webp", (4e9, 4e9))  # changed since
    assert worked.by(*again) == ["c.webp"]
    assert worked.by(*call) == every


@pytest.mark.parametrize(
    "other",
    [
        ["--classes", "sky, boat"],
        ["--classes", "sky, water", "--set", "timestep=3"],
        ["--classes", "sky, water", "--set", "feature_strides=16"],
        ["--classes", "sky, water", "--background", "sky"],
        ["--classes", "sky, water", "--head", "attention"],
        ["--classes", "sky, water", "--max-size", "400"],
        ["--unsupervised"],
        ["--segments", "4"],
    ],
)
def test_only_results_of_the_same_call_are_passed_over(picture_file, tmp_path, monkeypatch, other):
    worked = Worked(monkeypatch)
    base = [picture_file, "--skip-existing", "-o", tmp_path / "out"]
    assert worked.by(*base, "--classes", "sky, water") == ["scene.png"]
    assert worked.by(*base, *other) == ["scene.png"]
    assert worked.by(*base, *other) == []


def test_results_of_another_bundle_of_that_name_are_not(picture_file, tmp_path, monkeypatch):
    """As after another export: the record's digest is of every file."""
    worked = Worked(monkeypatch)
    shutil.copytree(EMBEDDED, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["created_by"]["torch"] = "another"
    manifest["sha256"] = digest(manifest)
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    call = [picture_file, "--classes", "sky, sea", "--skip-existing", "-o", tmp_path / "out"]
    assert worked.by(*call) == ["scene.png"]
    assert worked.by(*call, "--engine", tmp_path / "other") == ["scene.png"]
    assert worked.by(*call, "--engine", tmp_path / "other") == []


def test_a_lost_record_costs_its_picture_alone(album, tmp_path, monkeypatch):
    worked = Worked(monkeypatch)
    call = [album, "--classes", "sky, sea", "--skip-existing", "-o", tmp_path / "out"]
    assert worked.by(*call) == ["a.png", "b.jpg"]
    (tmp_path / "out" / "a.json").unlink()
    assert worked.by(*call) == ["a.png"]
    (tmp_path / "out" / "b.json").write_text("")
    assert worked.by(*call) == ["b.jpg"]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["sky"], "one class alone takes every pixel"),
        (["names.csv"], "@names.csv reads the file"),
        (["sky, sea"], None),
        (["sky", "--background", "sea"], None),
        (["sky", "--set", "threshold=0.1"], None),
    ],
)
def test_one_name_is_told_of(picture_file, tmp_path, monkeypatch, names, note):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.csv").write_text("sky")
    stderr = run(picture_file, "--classes", *names, "-o", "out").stderr
    assert ("Note: " in stderr) == (note is not None)
    assert note is None or note in stderr


def test_an_interruption_says_how_far_it_came(album, tmp_path):
    """Ctrl-C while the third picture is worked on: two are there, and whole."""
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mdrt.cli import main, pictures\n"
        "segment, seen = pictures.Batch.segment, []\n"
        "def work(self, path, arrived):\n"
        "    seen.append(path)\n"
        "    if len(seen) == 3:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return segment(self, path, arrived)\n"
        "pictures.Batch.segment = work\n"
        f"main(['segment', {str(album)!r}, '--recursive', '--classes', 'sky',"
        f" '--out', {str(tmp_path / 'out')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "Interrupted: 2 of 5 pictures are done" in done.stderr
    assert "--skip-existing" in done.stderr
    assert len(label_maps(tmp_path / "out")) == 2
