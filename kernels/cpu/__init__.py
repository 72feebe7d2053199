"""Compiled operators for ONNX Runtime on CPUs.

`winograd.cpp` is built when the package is installed, where a C++ compiler is at hand; without
one everything works through ONNX Runtime's own operators, more slowly.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def operator_library() -> Path | None:
    """The compiled operators' shared library; None if it was not built."""
    spec = find_spec("mdrt.kernels.cpu._winograd")
    return None if spec is None or spec.origin is None else Path(spec.origin)
