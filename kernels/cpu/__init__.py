"""Compiled code for CPUs: operators for ONNX Runtime, and what NumPy's arrays are given to.

`operators.cpp` is built when the package is installed, where a C++ compiler is at hand; without
one everything works through ONNX Runtime's own operators and through NumPy, more slowly.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def operator_library() -> Path | None:
    """The compiled operators' shared library; None if it was not built."""
    spec = find_spec("mdrt.kernels.cpu._operators")
    return None if spec is None or spec.origin is None else Path(spec.origin)


@cache
def loaded() -> ctypes.CDLL | None:
    """The library, to call its functions (arrays.h); None if it was not built."""
    path = operator_library()
    return None if path is None else ctypes.CDLL(str(path))


def has_tiles() -> bool:
    """Whether bfloat16 products are fast here: the library is there, the processor has tiles for
    them (AMX), and the system lets this process use them."""
    library = loaded()
    return library is not None and bool(library.mdrt_has_tiles())


def called(status: int) -> None:
    """Raise what a function of the library says by its status."""
    if status:
        raise MemoryError("a compiled kernel found no memory")
