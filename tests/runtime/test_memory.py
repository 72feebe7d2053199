"""How much memory `mdrt segment` takes, in a process of its own that may not take the machine's."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

BACKSTOP = 6 << 30
"""Bytes of addresses, most of them never touched."""

# Not ru_maxrss, which begins with what the process that started this one held.
PROGRAM = """
import sys
from pathlib import Path
from mdrt.cli import main
try:
    main(sys.argv[1:])
finally:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x[:5] == "VmHWM")
    print("peak", line.split()[1])
"""

# A graph that widens each of its matrices: run once, and what it held beyond an empty session.
LEAN = """
import sys
import numpy as np
from pathlib import Path
from mdrt.runtime.sessions.ort import OrtSession
session = OrtSession(Path(sys.argv[1]), lean=True)
session.infer({"x": np.ones((1, 1024), np.float32)})
(line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x[:7] == "RssAnon")
print("held", line.split()[1])
(line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x[:5] == "VmHWM")
print("peak", line.split()[1])
"""


def peak(picture: Path, *options: str) -> int:
    """The most bytes that a run of the command held."""
    words = ["segment", str(picture), *options, "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words, "--out", str(picture.parent / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BACKSTOP, BACKSTOP)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rsplit("peak ", 1)[1]) * 1024


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)])
@pytest.mark.parametrize(
    "options",
    [[], ["--refine", "pamr"], ["--set", "mode=paper", "--refine", "none", "--set", "attention=0"]],
)
def test_a_line_of_pixels(tmp_path: Path, size: tuple[int, int], options: list[str]) -> None:
    random = np.random.default_rng(0)
    picture = tmp_path / "line.png"
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(picture)
    assert peak(picture, *options) < 300e6
    assert Image.open(tmp_path / "out" / "line.png").size == size[::-1]


def test_a_lean_session_widens_one_matrix_at_a_time(tmp_path: Path) -> None:
    """And not all of them when it is opened, or before its first product."""
    count, side = 100, 1024  # 400 MB in float32
    weight = np.eye(side, dtype=np.float16)
    nodes = [
        node
        for i in range(count)
        for node in (
            onnx.helper.make_node("Cast", [f"w{i}"], [f"c{i}"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("MatMul", [f"y{i}" if i else "x", f"c{i}"], [f"y{i + 1}"]),
        )
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", side])
        for name in ("x", f"y{count}")
    ]
    weights = [onnx.numpy_helper.from_array(weight, f"w{i}") for i in range(count)]
    graph = onnx.helper.make_graph(nodes, "widened", values[:1], values[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    path = tmp_path / "widened.onnx"
    onnx.save(model, path, save_as_external_data=True, location="widened.data")
    done = subprocess.run(
        [sys.executable, "-P", "-c", LEAN, str(path)], capture_output=True, text=True, check=True
    )
    held, most = (int(line.split()[1]) * 1024 for line in done.stdout.splitlines())
    mapped = count * weight.nbytes
    assert held < 150e6
    assert most - mapped < 200e6
