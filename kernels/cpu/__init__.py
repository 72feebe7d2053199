"""Compiled operators for ONNX Runtime on CPUs.

`operators.cpp` is built when the package is installed, where a C++ compiler is at hand; without
one everything works through ONNX Runtime's own operators, more slowly.
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
def has_tiles() -> bool:
    """Whether bfloat16 products are fast here: the library is there, the processor has tiles for
    them (AMX), and the system lets this process use them."""
    library = operator_library()
    return library is not None and bool(ctypes.CDLL(str(library)).mdrt_has_tiles())
