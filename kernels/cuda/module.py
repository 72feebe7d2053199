"""CUDA source, compiled once a process by CuPy (NVRTC), and the launch of its kernels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any, Final

import numpy as np

from ..grid import Array, array_module

NAMES: Final = ("edge_labels", "labels", "pixel_norms", "pooled_attention")
"""The operations, each a `.cu` file."""


def source(name: str) -> str:
    """The text of `name`.cu with the headers it includes in their places.

    One text, because CuPy keeps compiled kernels on disk by their text: it would not notice that
    a header changed.
    """
    folder = files(__package__)
    text = (folder / f"{name}.cu").read_text(encoding="utf-8")
    return re.sub(
        r'^#include "(.+)"$',
        lambda found: (folder / found[1]).read_text(encoding="utf-8"),
        text,
        flags=re.MULTILINE,
    )


@cache
def _kernel(xp: ModuleType, name: str, function: str) -> Any:
    """A kernel, callable with (grid, block, arguments)."""
    return xp.RawModule(code=source(name), options=("-std=c++14",)).get_function(function)


def launch(
    name: str,
    function: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: Sequence[Array | np.generic],
) -> None:
    """Run a kernel of `name`.cu on the current stream.

    Arrays are passed by address, NumPy scalars by value; their dtypes must be the parameters'.
    """
    xp = array_module(arguments[0])  # type: ignore[arg-type]
    _kernel(xp, name, function)(grid, block, tuple(arguments))


def check(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise unless an array is what a kernel reads at its address.

    Raises:
        TypeError: the dtype is another.
        ValueError: the shape is another, or the values do not lie in C order.
    """
    if array.dtype != dtype:
        raise TypeError(f"{name} is {array.dtype}, expected {dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} is {array.shape}, expected {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous; pass ascontiguousarray({name})")


def blocks(n: int, threads: int) -> int:
    """How many blocks of `threads` cover n."""
    return -(-n // threads)
