"""CUDA kernels on the CPU: the very source, built by the host's compiler with `cuda_shim.h`."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

HERE: Final = Path(__file__).parent
SANITIZE: Final = "MDRT_SANITIZE"
"""Where set in the environment, kernels are built with AddressSanitizer and UBSan."""
WARNINGS: Final = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS: Final = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
PROBLEMS: Final = {1: "arguments do not fit the parameters", 2: "a barrier not all threads reach"}
LAUNCHED: Final[list[str]] = []
"""The kernels launched so far; their number seeds the order of the next one's threads."""


class RawModule:
    """As `cupy.RawModule`, on the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self._library = build(code)

    def get_function(self, name: str) -> Callable[..., None]:
        entry = self._library[f"launch_{name}"]

        def launch(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
            keep = [_by_address(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(keep))(*(address for address, _, _ in keep))
            sizes = (ctypes.c_int * len(keep))(*(size for _, size, _ in keep))
            LAUNCHED.append(name)
            result = entry(_three(grid), _three(block), pointers, sizes, len(keep), len(LAUNCHED))
            if result:
                raise RuntimeError(f"{name}: {PROBLEMS[result]}")

        return launch


def _three(sizes: Sequence[int]) -> Any:
    return (ctypes.c_uint * 3)(*sizes, *[1] * (3 - len(sizes)))


def _by_address(argument: Any) -> tuple[int, int, Any]:
    """(address of the parameter's value, its size as the shim counts it, what must stay alive).

    Python's own numbers become 64 bits wide, as in CuPy.
    """
    if isinstance(argument, np.ndarray):
        assert type(argument).__module__ == "cupy", "an array of the host reached a kernel"
        pointer = ctypes.c_void_p(argument.ctypes.data)
        return ctypes.addressof(pointer), -argument.itemsize, (pointer, argument)
    scalar = np.array(argument)
    return scalar.ctypes.data, scalar.itemsize, scalar


@cache
def build(code: str) -> ctypes.CDLL:
    """The source compiled for the host, warnings as errors, with a launcher for each kernel."""
    kernels = re.findall(r"__global__ void (?:__launch_bounds__\(.*?\) )?(\w+)\(", code)
    assert kernels, "no kernel found"
    launchers = "\n".join(f"LAUNCHER({kernel})" for kernel in kernels)
    flags = SANITIZERS if SANITIZE in os.environ else []
    with tempfile.TemporaryDirectory() as folder:
        text, library = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        text.write_text(f'#include "cuda_shim.h"\n{code}\n{launchers}\n')
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HERE}", *WARNINGS, *flags]
        done = subprocess.run(
            [*command, str(text), "-o", str(library)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(library))
