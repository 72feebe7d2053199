"""The CUDA sources compiled for every architecture: registers, spills, shared memory.

By NVRTC, which compiles for CuPy too, from its wheel (`nvidia-cuda-nvrtc`); otherwise by nvcc.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

ARCHITECTURES: Final = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten: Turing to Blackwell."""

WHEELS: Final = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
OPTIONS: Final = ("-std=c++14", "-ftz=true")
"""As CuPy compiles them."""

Compile: TypeAlias = Callable[[str, int], str]  # (source, architecture) → ptxas's report


class CompileError(RuntimeError):
    """A source did not compile, or not without a warning."""


class Usage(NamedTuple):
    """What one kernel takes on one architecture."""

    kernel: str
    registers: int
    spills: int
    """Bytes a thread, stored and loaded."""
    shared: int
    """Bytes a block."""


def find_compiler() -> tuple[str, Compile] | None:
    """A compiler and its name and version; None where there is none."""
    library = _nvrtc()
    if library is not None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"NVRTC {major.value}.{minor.value}", partial(_compile_nvrtc, library)
    if shutil.which("nvcc"):
        version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release ([\d.]+)", version)
        return f"nvcc {found[1] if found else ''}", _compile_nvcc
    return None


def usages(report: str) -> list[Usage]:
    """ptxas's verbose report as numbers, a row a kernel, by name."""
    rows = []
    for part in report.split("Compiling entry function ")[1:]:
        spills = re.findall(r"(\d+) bytes spill", part)
        registers, shared = (
            re.search(pattern, part) for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem")
        )
        if registers is None or not spills:
            raise CompileError(f"no registers or spills in the compiler's report:\n{part}")
        rows.append(
            Usage(
                part.split("'")[1],
                int(registers[1]),
                sum(map(int, spills)),
                int(shared[1]) if shared else 0,
            )
        )
    return sorted(rows)


def _nvrtc() -> ctypes.CDLL | None:
    for wheel in WHEELS:
        try:
            found = [
                path for path in files(wheel) or () if re.match(r"libnvrtc\.so\.\d+$", path.name)
            ]
        except PackageNotFoundError:
            continue
        if found:
            return ctypes.CDLL(str(found[0].locate()))
    return None


def _compile_nvrtc(library: ctypes.CDLL, source: str, architecture: int) -> str:
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    options = [f"-arch=sm_{architecture}", *OPTIONS, "--ptxas-options=-v"]
    passed = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), passed)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    report = log.value.decode()
    if failed or "warning" in report:
        raise CompileError(report)
    return report


def _compile_nvcc(source: str, architecture: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cu"
        path.write_text(source)
        command = [
            "nvcc", f"-arch=sm_{architecture}", *OPTIONS, "-Xptxas=-v", "-Werror=all-warnings",
            "-cubin", "-o", str(path.with_suffix(".cubin")), str(path),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(done.stderr)
    return done.stderr
