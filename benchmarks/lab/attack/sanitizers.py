"""The operators for CPUs built with AddressSanitizer and UBSan, and their tests on that build.

What the operators read and write lies in memory of its own there: ONNX Runtime takes each tensor
from the C library, and scratch memory is lent to the byte and never twice. AMX's tiles are loaded
by the processor, which no sanitizer sees; what is packed for them is seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from sysconfig import get_config_var
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[3]
_TESTS: Final = _ROOT / "tests" / "kernels"
_EXACT: Final = {
    "if (best < idle_.size()) {": "if (false) {",
    "piece.memory = std::aligned_alloc(border, piece.bytes);": (
        "if (posix_memalign(&piece.memory, border, bytes) != 0) piece.memory = nullptr;"
    ),
}
"""In scratch.h: as it is, pieces are rounded up and lent again."""
_SELECTION: Final = "not slower and not tiles_are_used and not allocation and not written_where"
"""In this process, that is: others would have the common build."""

SETS: Final = ("tiles", "avx512", "avx2", "plain")
"""Of instructions; a processor without the first takes the next."""

CONTROL: Final[Mapping[str, Any]] = {
    "plain": True,
    "without": "std::min(kRows, rows - first)",
    "bound": "kRows",
}
"""Rows of `Gate` that are not there."""

_PROGRAM: Final = """
import sys
import mdrt.kernels.cpu as cpu
cpu.__path__.insert(0, sys.argv[1])
assert str(cpu.operator_library()).startswith(sys.argv[1])
import onnxruntime as ort
real = ort.InferenceSession
def session(model, options, **more):
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return real(model, options, **more)
ort.InferenceSession = session
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def sanitized(folder: Path, *, plain: bool = False, without: str = "", bound: str = "") -> Path:
    """The operators' library, built with sanitizers into a folder.

    Args:
        folder: an empty one.
        plain: build for no instruction set but what every processor has, which is fast.
        without: text of operators.cpp that is exchanged for `bound`: a control.

    Raises:
        OSError, CalledProcessError: there is no C++ compiler, or it refuses.
    """
    source = Path(shutil.copytree(_ROOT / "kernels" / "cpu", folder / "source"))
    changes = {"scratch.h": dict(_EXACT)}
    if plain:
        changes["kernels.h"] = {"#ifdef __x86_64__": "#if 0"}
    if without:
        changes["operators.cpp"] = {without: bound}
    for name, exchanged in changes.items():
        text = (source / name).read_text(encoding="utf-8")
        for old, new in exchanged.items():
            assert old in text
            text = text.replace(old, new)
        (source / name).write_text(text, encoding="utf-8")
    library = folder / f"_operators{get_config_var('EXT_SUFFIX')}"
    command = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fvisibility=hidden"]
    command += ["-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    command += [str(source / "operators.cpp"), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def run_tests(
    library: Path, simd: str = "plain", selection: str = _SELECTION
) -> subprocess.CompletedProcess[str]:
    """The operators' own tests on a library, on an instruction set of `MDRT_SIMD`."""
    loaded = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(loaded),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "MDRT_SIMD": simd,
    }
    paths = [str(_TESTS / name) for name in ("test_operators.py", "test_compiled.py")]
    command = [sys.executable, "-P", "-c", _PROGRAM, str(library.parent), *paths]
    command += ["-s", "-p", "no:cacheprovider", "-k", selection]  # a report is written to stderr
    return subprocess.run(command, env=environment, cwd=_ROOT, capture_output=True, text=True)


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tests did."""
    found = re.search(r"(\d+) passed", done.stdout)
    return int(found[1]) if found else 0
