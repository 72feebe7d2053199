"""`mdrt batch`: every source, each picture once, reruns, kills, what goes wrong."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.cli import main
from mdrt.runtime.batch.shards import plan
from mdrt.runtime.batch.sources import Item, find_items, read_item
from mdrt.runtime.errors import MdrtError

WORDS = ["--classes", "sky, water", "--shard", "2"]


def run(*arguments):
    return CliRunner().invoke(main, ["batch", *map(str, arguments)])


@pytest.fixture
def album(picture, tmp_path):
    """Five pictures, no two alike, in a tree."""
    root = tmp_path / "album"
    for number, place in enumerate(("a.png", "a.jpg", "sea/a.png", "sea/b.png", "sea/c.png")):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[number * 8 :, number * 8 :]).save(path)
    return root


def labels_of(out):
    """Every annotation of every shard by its picture's name; a picture in two shards fails."""
    found = {}
    for path in sorted(Path(out).glob("shards/*/coco/annotations.json")):
        coco = json.loads(path.read_text())
        names = {image["id"]: image["file_name"] for image in coco["images"]}
        for name in names.values():
            assert name not in found
            found[name] = []
        for one in coco["annotations"]:
            one.pop("id")
            found[names[one.pop("image_id")]].append(one)
    return found


def test_shards_hold_every_picture_as_segment_makes_it(album, tmp_path):
    done = run(album, tmp_path / "out", *WORDS, "--format", "coco", "--format", "voc")
    assert done.exit_code == 0, done.output
    assert "5 of 5 pictures" in done.stdout
    found = labels_of(tmp_path / "out")
    assert sorted(found) == ["a.jpg", "a.png", "sea/a.png", "sea/b.png", "sea/c.png"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [shard["pictures"] for shard in manifest["shards"]] == [2, 2, 1]
    assert manifest["errors"] == {}
    words = [album, "--recursive", *WORDS[:2], "-o", tmp_path / "one", "--format", "coco"]
    CliRunner().invoke(main, ["segment", *map(str, words)])
    whole = tmp_path / "one" / "shards" / "x"
    whole.mkdir(parents=True)
    (tmp_path / "one" / "coco").rename(whole / "coco")
    assert labels_of(tmp_path / "one") == found
    ids = [p.read_text().split() for p in sorted((tmp_path / "out").rglob("default.txt"))]
    assert ids == [["a", "a-2"], ["sea/a", "sea/b"], ["sea/c"]]


def test_a_rerun_does_what_is_missing(album, tmp_path):
    out = tmp_path / "out"
    (album / "sea" / "b.png").rename(tmp_path / "b.png")
    (album / "sea" / "b.png").write_bytes(b"no picture")
    done = run(album, out, *WORDS)
    assert done.exit_code == 1
    assert "sea/b.png is no picture" in done.stderr.replace(f"{album}/", "")
    assert list(json.loads((out / "manifest.json").read_text())["errors"]) == ["sea/b.png"]
    before = {path: path.stat().st_mtime_ns for path in out.glob("shards/*/coco/*")}
    (tmp_path / "b.png").replace(album / "sea" / "b.png")
    done = run(album, out, *WORDS)
    assert done.exit_code == 0, done.output
    assert "1 of 1 pictures" in done.stdout
    assert "4 were there already" in done.stdout
    assert len(labels_of(out)) == 5
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert "0 of 0 pictures" in run(album, out, *WORDS).stdout


def test_a_kill_leaves_whole_shards_alone(album, tmp_path):
    out = tmp_path / "out"
    code = (
        "import os, signal\n"
        "from mdrt.cli import main\n"
        "from mdrt.runtime.writers.folder import Folder\n"
        "write, seen = Folder.write, []\n"
        "def work(self, *arguments):\n"
        "    write(self, *arguments)\n"
        "    seen.append(1)\n"
        "    if len(seen) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Folder.write = work\n"
        f"main(['batch', {str(album)!r}, {str(out)!r}, *{WORDS!r}])\n"
    )
    killed = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(labels_of(out)) == 2
    assert run(album, out, *WORDS).exit_code == 0
    assert run(album, tmp_path / "once", *WORDS).exit_code == 0
    assert labels_of(out) == labels_of(tmp_path / "once")
    names = [sorted(p.name for p in (o / "shards").iterdir() if p.name[0] != ".") for o in (
        out, tmp_path / "once",
    )]  # fmt: skip
    assert names[0] == names[1]


def test_another_question_needs_another_output(album, tmp_path):
    assert run(album, tmp_path / "out", *WORDS).exit_code == 0
    done = run(album, tmp_path / "out", "--classes", "sky")
    assert done.exit_code == 1
    assert "holds a run with other classes" in done.stderr


def test_globs_and_lists(album, tmp_path):
    assert [item.name for item in find_items(f"{album}/sea/[ab].png")] == ["a.png", "b.png"]
    (tmp_path / "list.txt").write_text(f"{album}/a.png\n\n{album}/sea/b.png\n{album}/a.png\n")
    listed = list(find_items(str(tmp_path / "list.txt")))
    assert [item.where for item in listed] == [f"{album}/a.png", f"{album}/sea/b.png"]
    for nothing in (f"{album}/*.tif", str(tmp_path / "nowhere")):
        with pytest.raises(MdrtError):
            list(find_items(nothing))


def test_tars_of_webdataset(album, tmp_path):
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        for name in ("a.png", "sea/b.png"):
            tar.add(album / name, name)
            info = tarfile.TarInfo(f"{name}.json")
            tar.addfile(info, io.BytesIO(b""))
    items = list(find_items(str(tmp_path / "shard-000.tar")))
    assert [item.name for item in items] == ["shard-000.tar/a.png", "shard-000.tar/sea/b.png"]
    assert read_item(items[1]) == (album / "sea/b.png").read_bytes()
    done = run(tmp_path / "shard-*.tar", tmp_path / "out", *WORDS)
    assert done.exit_code == 0, done.output
    assert list(labels_of(tmp_path / "out")) == [item.name for item in items]


def test_parquet_and_file_systems_of_pyarrow(album, tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of extra ray")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of extra ray")
    data = [(album / name).read_bytes() for name in ("a.png", "sea/b.png", "sea/c.png")]
    structs = [{"bytes": one, "path": None} for one in data[:2]] + [None]
    table = arrow.table({"jpg": data, "image": structs})
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=2)
    items = list(find_items(str(tmp_path / "p.parquet"), "jpg"))
    assert [read_item(item) for item in items] == data
    with pytest.raises(MdrtError, match="no column nope; it has jpg, image"):
        list(find_items(str(tmp_path / "p.parquet"), "nope"))
    uri = f"file://{tmp_path}"
    done = run(f"{uri}/p.parquet", f"{uri}/out", *WORDS)
    assert done.exit_code == 1  # of the row without a picture
    assert "is NoneType, expected bytes" in done.stderr
    assert len(labels_of(tmp_path / "out")) == 2
    done = run(f"{uri}/album", f"{uri}/far", *WORDS)
    assert done.exit_code == 0, done.output
    assert run(album, tmp_path / "near", *WORDS).exit_code == 0
    assert labels_of(tmp_path / "far") == labels_of(tmp_path / "near")
    assert "0 of 0 pictures" in run(f"{uri}/album", f"{uri}/far", *WORDS).stdout


def test_shards_are_those_of_the_first_run():
    items = [Item(str(number), "") for number in range(10)]
    first = list(plan(items, 4, set()))
    assert [len(shard.items) for shard in first] == [4, 4, 2]
    assert list(plan(items, 4, {"0", "1", "2", "3"})) == first[1:]
    (rest,) = plan(items, 4, {str(number) for number in range(10)} - {"5"})
    assert [item.name for item in rest.items] == ["5"]
    assert rest.name not in {shard.name for shard in first}


def test_names_that_are_not_utf8(picture, tmp_path):
    folder = os.fsencode(tmp_path / "in")
    Path(os.fsdecode(folder)).mkdir()
    for byte in (b"\xff", b"\xfe"):
        Image.fromarray(picture[:64, :64]).save(os.fsdecode(folder + b"/" + byte + b".png"))
    for wanted in ("2 of 2", "0 of 0"):
        done = run(tmp_path / "in", tmp_path / "out", *WORDS, "--format", "npz")
        assert done.exit_code == 0, done.output
        assert wanted in done.stdout
    found = sorted((tmp_path / "out").rglob("*.npz"))
    assert len(found) == 2
    with np.load(found[0]) as arrays:
        assert arrays["labels"].shape == (64, 64)
