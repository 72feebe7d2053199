"""Limits of size, time and memory: what is beyond one fails by itself, and the rest goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdrt.runtime.errors import ImageError, MdrtError
from mdrt.runtime.limits import within_memory
from mdrt.runtime.pictures.images import read_image
from mdrt.runtime.sessions.deadline import TimeoutReached, within
from mdrt.runtime.sessions.ort import OrtSession


@pytest.fixture
def pictures(tmp_path: Path, picture_file: Path) -> Path:
    """A folder of a large picture and a small one, which comes after it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture_file.rename(folder / "z.png")
    Image.new("RGB", (6000, 6000), "teal").save(folder / "a.png", compress_level=1)
    return folder


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--timeout", "2"], "stopped after 2 s, the limit (--timeout or --max-size)"),
        (["--max-side", "5999"], "has a side of 6000 pixels, the limit is 5999"),
        (["--max-pixels", "35.9"], "exceeds limit of 35900000 pixels"),
        (["--memory", "0.7"], "Unable to allocate"),
    ],
)
def test_the_rest_goes_on(pictures: Path, options: list[str], says: str) -> None:
    if "--memory" in options:  # too little for a picture that another limit would let pass
        Image.new("RGB", (9000, 9000), "teal").save(pictures / "a.png", compress_level=1)
    words = ["segment", str(pictures), "--classes", "sky, sea", "--out", str(pictures / "out")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from mdrt.cli import main; main()", *words, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 2 pictures failed" in done.stderr
    assert sorted(path.name for path in (pictures / "out").glob("*.json")) == ["z.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
@pytest.mark.parametrize("command", ["segment", "batch"])
def test_the_rest_goes_on_where_the_system_refuses(pictures: Path, command: str) -> None:
    """Without `--memory`, in a process that gets no more."""
    Image.new("RGB", (9000, 9000), "teal").save(pictures / "a.png", compress_level=1)
    code = (
        "import resource\n"
        "from mdrt.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)\n"
        "main()\n"
    )
    out = ["--out"] * (command == "segment") + [str(pictures / "out")]
    words = [command, str(pictures), *out, "--classes", "sky, sea", "--format", "coco"]
    words += ["--max-size", "256"]  # one pass of the network
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "memory" in done.stderr.replace("allocate", "memory")
    assert "Traceback" not in done.stderr
    assert "1 of 2 pictures failed" in done.stderr
    (found,) = (pictures / "out").rglob("annotations.json")
    assert [image["file_name"] for image in json.loads(found.read_text())["images"]] == ["z.png"]


def test_memory_that_is_not_there_is_an_error_and_then_there_again() -> None:
    with within_memory(), pytest.raises(MemoryError):
        np.ones(1 << 44, np.uint8)
    with within_memory(1 << 20), pytest.raises(MemoryError):
        np.ones(1 << 26)
    np.ones(1 << 26)


def test_a_side_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (3000, 1)).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match="side of 3000 pixels, the limit is 2999"):
        read_image(tmp_path / "line.png", 2999)
    assert read_image(tmp_path / "line.png", 3000).shape == (1, 3000, 3)


def wait() -> None:
    while True:
        time.sleep(0.01)


def calculate() -> None:
    while True:
        np.zeros(1000).sum()


@pytest.mark.parametrize("work", [wait, calculate])
def test_work_in_python_is_stopped(work: Callable[[], None]) -> None:
    start = time.perf_counter()
    with pytest.raises(TimeoutReached, match=r"stopped after 0\.2 s"), within(0.2):
        work()
    assert time.perf_counter() - start < 5


def test_a_graph_that_loops_for_ever_is_stopped(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def value(name: str, kind: int, shape: list[int]) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Neg", ["x_in"], ["x_out"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("x_in", TensorProto.FLOAT, [1]),
        ],
        [value("go_on_out", TensorProto.BOOL, []), value("x_out", TensorProto.FLOAT, [1])],
    )
    most = helper.make_tensor("most", TensorProto.INT64, [], [2**62])
    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    loop = helper.make_node("Loop", ["most", "always", "x"], ["y"], body=body)
    graph = helper.make_graph(
        [loop],
        "for ever",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [most, always],
    )
    path = tmp_path / "loop.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    with OrtSession(path) as session:
        start = time.perf_counter()
        with pytest.raises(TimeoutReached), within(0.5):
            session.infer({"x": np.ones(1, np.float32)})
        assert time.perf_counter() - start < 10


def test_what_ends_in_time_is_left_alone() -> None:
    with within(60), pytest.raises(MdrtError, match="its own"):
        raise MdrtError("its own")
    with within(None):
        pass
    with within(0.05):
        pass
    time.sleep(0.2)
