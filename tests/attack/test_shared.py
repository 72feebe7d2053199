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
