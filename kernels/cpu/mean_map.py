"""Rows of the mean over heads of softmax(QKᵀ) on the host (mean_map.h)."""

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
    queries: list[Floats] = []
    packed: list[Floats] = []
    for query, key in layers:
        depth = ctypes.c_size_t(query.shape[2])
        size = library.mdrt_packed_keys(ctypes.c_size_t(pixels), depth)
        if not size:
            return None
        for q, k in zip(query, key, strict=True):
            queries.append(np.ascontiguousarray(q, np.float32))
            k = np.ascontiguousarray(k, np.float32)
            packed.append(np.empty(size, np.float32))
            keys = ctypes.c_void_p(packed[-1].ctypes.data)
            pointer = ctypes.c_void_p(k.ctypes.data)
            called(library.mdrt_pack_keys(pointer, ctypes.c_size_t(pixels), depth, keys))

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
