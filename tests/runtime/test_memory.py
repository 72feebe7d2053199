"""How much memory `mdrt segment` takes, in a process of its own that may not take the machine's."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
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
