"""The mean over heads of softmax(QKᵀ) on the host (mean_map.h): its rows, or what they take of
values."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import called, loaded

Floats = NDArray[np.float32]


class Head(ctypes.Structure):
    """work.h's."""

    _fields_ = (("q", ctypes.c_void_p), ("keys", ctypes.c_void_p), ("depth", ctypes.c_size_t))


class MeanRows(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        ("heads", ctypes.POINTER(Head)),
        ("count", ctypes.c_size_t),
        ("rows", ctypes.c_size_t),
        ("keys", ctypes.c_size_t),
        ("total", ctypes.c_void_p),
    )


class SpreadHead(ctypes.Structure):
    """work.h's."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("total", ctypes.c_void_p),
        ("rows", ctypes.c_size_t),
        ("keys", ctypes.c_size_t),
        ("depth", ctypes.c_size_t),
        ("width", ctypes.c_size_t),
    )


def has_spread(depth: int) -> bool:
    """Whether there is `spread` for heads of a depth: the processor has bfloat16 tiles."""
    library = loaded()
    return library is not None and bool(library.mdrt_has_spread(ctypes.c_size_t(depth)))


def spread(q: Floats, k: Floats, values: Floats) -> Floats:
    """softmax(q kᵀ) values of one head, (rows, K): q (rows, d), k (N, d), values (N, K)."""
    arrays = [np.ascontiguousarray(array, np.float32) for array in (q, k, values)]
    total = np.empty((len(q), values.shape[1]), np.float32)
    pointers = [array.ctypes.data for array in (*arrays, total)]
    asked = SpreadHead(*pointers, len(q), *k.shape, values.shape[1])
    library = loaded()
    assert library is not None
    called(library.mdrt_spread_head(ctypes.byref(asked)))
    return total


def mean_rows(layers: Sequence[tuple[Floats, Floats]]) -> Callable[[slice], Floats] | None:
    """What gives some rows of the mean over all heads of layers Q and K (heads, N, d), from any
    thread; None where nothing compiled does.

    Keys are packed here, once.
    """
    library = loaded()
    if library is None:
        return None
    pixels = layers[0][1].shape[1]
    library.mdrt_packed_keys.restype = ctypes.c_size_t
    queries = [np.ascontiguousarray(q, np.float32) for query, _ in layers for q in query]
    count, depths = ctypes.c_size_t(pixels), [ctypes.c_size_t(q.shape[1]) for q in queries]
    sizes = [library.mdrt_packed_keys(count, depth) for depth in depths]
    if not all(sizes):
        return None
    # one array for all heads, which the system may keep in large pages
    packed = np.split(np.empty(sum(sizes), np.float32), np.cumsum(sizes)[:-1])
    each_key = (k for _, key in layers for k in key)
    for k, depth, keys in zip(each_key, depths, packed, strict=True):
        k = np.ascontiguousarray(k, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (k, keys)]
        called(library.mdrt_pack_keys(pointers[0], count, depth, pointers[1]))

    def rows(some: slice) -> Floats:
        parts = [q[some] for q in queries]
        total = np.empty((len(parts[0]), pixels), np.float32)
        pairs = zip(parts, packed, strict=True)
        each = [Head(q.ctypes.data, k.ctypes.data, q.shape[1]) for q, k in pairs]
        heads = (Head * len(parts))(*each)
        asked = MeanRows(heads, len(parts), len(total), pixels, total.ctypes.data)
        called(library.mdrt_mean_rows(ctypes.byref(asked)))
        return total

    return rows
