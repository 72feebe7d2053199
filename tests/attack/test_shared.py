"""What may be shared: one segmenter by threads, one output by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import mdrt
from mdrt.runtime.disk.atomic import PREFIX
from mdrt.runtime.errors import OutputError


def test_threads_share_a_segmenter_and_its_texts(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]
) -> None:
    """More lists than are kept, so that every thread throws out what others read."""
    lists = [["sky", name] for name in segmenter.manifest.classes if name != "sky"]
    small = picture[:64, :64]
    alone = [segmenter(small, names).labels for names in lists]
    jobs = list(range(len(lists))) * 4

    def segment(job: int) -> bool:
        return np.array_equal(segmenter(small, lists[job]).labels, alone[job])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(segment, jobs))


def test_threads_share_a_look(segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]) -> None:
    look = segmenter.look(picture[:64, :64])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: look.segment(["sky", "sea"]).labels, range(12)))
    assert all(np.array_equal(one, found[0]) for one in found)


ASKED_IN_A_FORK = """
import os, sys, warnings
from threading import Event, Thread
import mdrt, numpy as np
warnings.simplefilter("ignore")
picture = np.zeros((64, 64, 3), np.uint8)
segmenter = mdrt.Segmenter()
look = segmenter.look(picture)
found = look.segment(["sky", "sea"]).found
if "busy" in sys.argv:  # another thread's turn, which never ends in the child
    held = Event()
    def hold():
        with segmenter.turn:
            held.set()
            Event().wait()
    Thread(target=hold, daemon=True).start()
    held.wait()
asked = {
    "segmenter": lambda: segmenter(picture, ["sky", "sea"]),
    "look": lambda: look.segment(["sky", "tree"]),
    "names": lambda: segmenter.prepare(["sand"]),
    "bytes": lambda: look.nbytes,
    "close": segmenter.close,
    "one of its own": lambda: mdrt.Segmenter()(picture, ["sky", "sea"]).found == found,
}
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
for name, ask in asked.items():
    try:
        print(name, "gave", ask(), flush=True)
    except mdrt.MdrtError as error:
        print(name, "was told", error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["at rest", "busy"])
def test_after_a_fork_a_segmenter_says_so_and_another_works(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASKED_IN_A_FORK, how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, line in zip(("segmenter", "look", "names", "bytes"), lines, strict=False):
        assert line.startswith(f"{name} was told this segmenter was loaded by process")
        assert line.endswith("load one after the fork, in each process")
    assert lines[4:] == ["close gave None", "one of its own gave True"]


def test_four_processes_on_one_output(picture_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["segment", str(picture_file), "--classes", "sky, water", "--out", str(out), "--quiet"]
    program = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()", *words]
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=os.environ | alone)
        for _ in range(4)
    ]
    ended = [(one.communicate()[1], one.returncode) for one in running]
    assert any(status == 0 for _, status in ended)
    for told, status in ended:
        assert status == 0 or "changed while its successor was made" in told
        assert "Traceback" not in told
    assert json.loads((out / "scene.json").read_text())["size"] == [256, 256]
    assert not list(out.glob(f"{PREFIX}*"))


def test_of_two_results_for_one_place_one_wins(
    segmenter: mdrt.Segmenter, picture_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdrt.runtime.pictures import output

    one, other = (segmenter(picture_file, names) for names in (["sky", "sea"], ["tree", "sea"]))
    real = output.check_targets

    def late(*arguments: object) -> object:
        seen = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(output, "check_targets", real)
        other.save(tmp_path / "x")
        return seen

    monkeypatch.setattr(output, "check_targets", late)
    with pytest.raises(OutputError, match="changed while"):
        one.save(tmp_path / "x")
    record = json.loads((tmp_path / "x.json").read_text())
    assert [entry["name"] for entry in record["classes"]] == ["tree", "sea"]


def test_names_that_an_output_cannot_spell(picture_file: Path, tmp_path: Path) -> None:
    words = ["segment", str(picture_file), "--classes", "sky, Straße, 海"]
    words += ["--out", str(tmp_path / "out")]
    for form in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from mdrt.cli import main; main()", *words, *form],
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
    assert [c["name"] for c in json.loads(done.stdout)["classes"]] == ["sky", "Straße", "海"]
