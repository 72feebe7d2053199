"""Rows of a large array, by a thread a core.

NumPy's own threads rest while mdrt computes (`runtime/blas.py`), and what is not a product has
none; a device orders its work itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .grid import Array, on_gpu


def each_block(like: Array, rows: int, step: int, use: Callable[[slice], None]) -> None:
    """`use` of every `step` of `rows`; in threads where `like` is the host's."""
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if on_gpu(like) or len(blocks) == 1:
        for block in blocks:
            use(block)
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in [threads.submit(use, block) for block in blocks]:
            done.result()
