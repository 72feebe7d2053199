"""NumPy's matrix products on one thread while mdrt computes, and as they were before and after.

They are small here: a second core gains next to nothing, and threads of BLAS that wait for one
another take the cores from ONNX Runtime's and from other programs'. Their number is the whole
process's, so it is changed for no longer than a call lasts.

That is of OpenBLAS, which NumPy's wheels bring; another BLAS is left as it is.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import NamedTuple

import numpy as np


class Threads(NamedTuple):
    """How many threads a product takes, to be asked and to be told."""

    get: Callable[[], int]
    set: Callable[[int], object]


_lock = Lock()
_before: list[int] = []
"""The number before, once for each call that is under way: the last of them restores it."""


@cache
def openblas() -> Threads | None:
    """The OpenBLAS that NumPy computes with; None where it is another's."""
    core = getattr(np, "_core", None) or np.core  # before NumPy 2
    try:  # a symbol of a library is looked for in those that it needs, too
        library = ctypes.CDLL(core._multiarray_umath.__file__)
    except OSError:
        return None
    for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "")):
        name = f"{prefix}openblas_{{}}_num_threads{suffix}"
        try:
            return Threads(library[name.format("get")], library[name.format("set")])
        except AttributeError:
            continue
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Around work: no product takes more than one thread. From several threads at once too."""
    threads = openblas()
    if threads is None:
        yield
        return
    with _lock:
        _before.append(_before[0] if _before else threads.get())
        threads.set(1)
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                threads.set(before)
