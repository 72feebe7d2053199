"""Runs into formats from the command line: trees, resumption, kills, what is replaced, memory."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from reading import Worked, run

from mdrt.runtime.errors import OutputError
from mdrt.runtime.writers import FORMATS, find_format
from mdrt.runtime.writers.base import Picture
from mdrt.runtime.writers.folder import Folder

from .made import blobs, result_of, run_of

WORDS = ["--classes", "sky, water", "--quiet"]
OTHERS = [name for name in FORMATS if name != "png"]


@pytest.fixture
def album(picture, tmp_path):
    """Equal stems in a tree, names with odd characters."""
    root = tmp_path / "album"
    for place in ("a.png", "a.jpg", "sea/a.png", "sea/line\nbreak <&> ü.png"):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:64, :64]).save(path)
    return root


def read_coco(out):
    return json.loads((out / "coco" / "annotations.json").read_text())


def test_every_format_of_a_tree(album, tmp_path):
    out = tmp_path / "out"
    asked = [word for name in FORMATS for word in ("--format", name)]
    done = run(album, "--recursive", *WORDS, "--out", out, *asked, "--set", "threshold=0.5")
    assert done.exit_code == 0, done.output
    coco = read_coco(out)
    assert [one["file_name"] for one in coco["images"]] == [
        "a.jpg", "a.png", "sea/a.png", "sea/line\nbreak <&> ü.png",
    ]  # fmt: skip
    keys = ["a", "a-2", "sea/a", "sea/line_break <&> ü"]
    assert (out / "voc/ImageSets/Segmentation/default.txt").read_text().splitlines() == keys
    for key in keys:
        for name in (
            f"coco-panoptic/panoptic/{key}.png", f"voc/SegmentationClass/{key}.png",
            f"fiftyone/data/{key}.jpg", f"polygons/labelme/{key}.json", f"npz/{key}.npz",
        ):  # fmt: skip
            assert (out / name).is_file(), name
        with np.load(out / "npz" / f"{key}.npz") as arrays:
            assert arrays["scores"].shape == (2, 64, 64)
    assert len(ET.parse(out / "cvat/annotations.xml").findall("image")) == 4
    for name in OTHERS:
        about = json.loads((out / name / "mdrt.json").read_text())
        assert [entry["name"] for entry in about["classes"]] == ["sky", "water"]
        assert all(entry["colour"].startswith("#") for entry in about["classes"])
        assert about["model"] == "storybook"
        assert len(about["bundle"]) == 64
        assert about["settings"]["threshold"] == 0.5
    record = json.loads((out / "a.json").read_text())
    assert record["files"]["coco"] == str(out / "coco")
    assert not list(out.rglob("*.part"))


def test_a_format_alone_writes_no_other(picture_file, tmp_path):
    out = tmp_path / "out"
    done = run(picture_file, *WORDS, "--out", out, "--format", "coco", "--json")
    record = json.loads(done.stdout)
    assert record["files"] == {"coco": str(out / "coco")}
    assert [path.name for path in out.iterdir()] == ["coco"]


def test_a_wrong_format_names_those_there_are(picture_file):
    done = run(picture_file, *WORDS, "--format", "yolo")
    assert done.exit_code == 2
    assert "'coco-panoptic'" in done.stderr


def test_a_run_goes_on_where_it_was(album, tmp_path, monkeypatch):
    worked, out = Worked(monkeypatch), tmp_path / "out"
    call = [*WORDS, "-o", out, "--format", "coco", "--format", "voc", "--skip-existing"]
    assert worked.by(album / "a.jpg", *call) == ["a.jpg"]
    whole = [album, "--recursive", *call]
    assert len(worked.by(*whole)) == 3
    assert worked.by(*whole) == []
    coco = read_coco(out)
    assert sorted(one["file_name"] for one in coco["images"])[:3] == ["a.jpg", "a.png", "sea/a.png"]
    (out / "voc" / "SegmentationClass" / "sea" / "a.png").unlink()
    os.utime(album / "a.jpg", (4e9, 4e9))  # changed since
    assert worked.by(*whole) == ["a.jpg", "a.png"]
    assert len(read_coco(out)["images"]) == 4
    numbers = [one["id"] for one in read_coco(out)["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_another_question_begins_anew(album, tmp_path, monkeypatch):
    worked, out = Worked(monkeypatch), tmp_path / "out"
    call = [*WORDS, "-o", out, "--format", "voc", "--skip-existing"]
    assert len(worked.by(album, "--recursive", *call)) == 4
    assert len(worked.by(album, *call, "--set", "threshold=0.1")) == 2
    assert sorted(path.name for path in (out / "voc/JPEGImages").rglob("*.jpg")) == [
        "a-2.jpg", "a.jpg",
    ]  # fmt: skip


def test_without_skip_existing_a_folder_holds_the_last_run(album, tmp_path):
    out = tmp_path / "out"
    for place in (album, album / "a.png"):
        done = run(place, *WORDS, "-o", out, "--format", "fiftyone")
        assert done.exit_code == 0, done.output
    assert [path.name for path in (out / "fiftyone" / "data").iterdir()] == ["a.jpg"]


def test_formats_are_no_pictures(album, tmp_path):
    for _ in range(2):
        call = [album, "--recursive", *WORDS, "-o", album, "--format", "voc", "--json"]
        assert len(run(*call).stdout.splitlines()) == 4


def test_what_a_kill_left_in_a_format_s_folder_goes(picture_file, tmp_path):
    """Before its first file was there, and below it."""
    voc = tmp_path / "out" / "voc"
    call = [picture_file, *WORDS, "-o", tmp_path / "out", "--format", "voc"]
    voc.mkdir(parents=True)
    (voc / ".mdrt-0.part").touch()
    assert run(*call).exit_code == 0
    (voc / "JPEGImages" / ".mdrt-1.part").mkdir()
    (tmp_path / "out" / ".mdrt-2.part").mkdir()
    assert run(*call, "--skip-existing").exit_code == 0
    assert not list(tmp_path.rglob(".mdrt-*"))


def test_files_of_others_and_inputs_stay(picture_file, tmp_path):
    out = tmp_path / "out"
    (out / "voc").mkdir(parents=True)
    (out / "voc" / "mine.txt").write_text("mine")
    call = [picture_file, *WORDS, "-o", out, "--format", "voc"]
    done = run(*call)
    assert done.exit_code == 1
    assert "is not empty and no earlier result of mdrt" in done.stderr
    assert "--overwrite" in done.stderr
    assert run(*call, "--overwrite").exit_code == 0
    assert run(*call).exit_code == 0  # its own now
    assert (out / "voc" / "mine.txt").read_text() == "mine"
    source = out / "voc" / "JPEGImages" / "scene.jpg"
    done = run(source, *WORDS, "-o", out, "--format", "voc", "--overwrite")
    assert done.exit_code == 1
    assert "replace the input" in done.stderr


def test_a_folder_that_is_called_as_a_format(album, tmp_path):
    (album / "sea").rename(album / "coco")
    call = [album, "--recursive", *WORDS, "-o", tmp_path / "out", "--format", "coco"]
    assert run(*call).exit_code == 0
    done = run(*call, "--format", "png", "-o", tmp_path / "two")
    assert done.exit_code == 1
    assert "would mix with format coco" in done.stderr


def test_a_bad_picture_leaves_the_others(album, tmp_path):
    (album / "bad.png").write_bytes(b"no picture")
    done = run(album, *WORDS, "-o", tmp_path / "out", "--format", "coco")
    assert done.exit_code == 1
    assert "1 of 3 pictures failed" in done.stderr
    assert len(read_coco(tmp_path / "out")["images"]) == 2


def test_a_run_without_a_picture_leaves_nothing(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = run(tmp_path / "bad.png", *WORDS, "-o", tmp_path / "out", "--format", "coco")
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_too_many_classes_leave_nothing(picture_file, tmp_path):
    names = ", ".join(f"sky {i}" for i in range(260))
    done = run(picture_file, "--classes", names, "-o", tmp_path / "out", "--format", "voc")
    assert done.exit_code == 1
    assert "holds 254 classes" in done.stderr
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from mdrt.cli import main
from mdrt.runtime.writers.folder import Folder
write, seen = Folder.write, []
def work(self, result, picture):
    write(self, result, picture)
    seen.append(picture)
    if len(seen) == 2:
        self._journal.write(b'{"key": "torn')
        self._journal.flush()
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
Folder.write = work
main(sys.argv[2:])
"""


def test_a_kill_costs_no_more_than_the_picture_it_met(album, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = [album, "--recursive", *WORDS, "-o", out, "--format", "coco"]
    command = [sys.executable, "-P", "-c", KILLED, "SIGKILL", "segment", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "coco" / "annotations.json").exists()
    worked = Worked(monkeypatch)
    assert len(worked.by(*words, "--skip-existing")) == 2
    assert len(read_coco(out)["images"]) == 4
    once = tmp_path / "once"
    assert run(*words, "-o", once).exit_code == 0
    assert read_coco(once) == read_coco(out)


def test_an_interruption_leaves_the_file_of_what_is_done(album, tmp_path):
    out = tmp_path / "out"
    words = [album, "--recursive", *WORDS, "-o", out, "--format", "cvat"]
    code = KILLED.replace('        self._journal.write(b\'{"key": "torn\')\n', "")
    command = [sys.executable, "-P", "-c", code, "SIGTERM", "segment", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert len(ET.parse(out / "cvat/annotations.xml").findall("image")) >= 2


def test_a_full_disk_is_an_error_of_its_picture(tmp_path, monkeypatch):
    folder = Folder(tmp_path / "npz", find_format("npz"), run_of())
    folder.write(result_of(blobs(0)), Picture("a", "a.png"))

    def full(file, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left"):
        folder.write(result_of(blobs(1)), Picture("b", "b.png"))
    folder.close()
    assert sorted(path.name for path in (tmp_path / "npz").iterdir()) == [
        "a.npz", "mdrt.json", "pictures.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "labelstudio", "cvat"])
def test_memory_does_not_grow_with_the_pictures(tmp_path, name):
    """What five hundred pictures take more than fifty."""
    result, peaks = result_of(blobs(0, (8, 12))), []
    for count in (50, 500):
        folder = Folder(tmp_path / str(count), find_format(name), run_of())
        tracemalloc.start()
        for number in range(count):
            folder.write(result, Picture(f"{number}", f"{number}.png"))
        folder.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = max(path.stat().st_size for path in (tmp_path / "500").iterdir())
    assert size > 5e4
    assert peaks[1] - peaks[0] < 16e3
