"""Rows of a large array, by a thread a core.

NumPy's own threads rest while mdrt computes (`runtime/blas.py`), and what is not a product has
none; a device orders its work itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from .grid import Array, on_gpu

Task = TypeVar("Task")
Result = TypeVar("Result")

HOST_VALUES: Final = 1 << 19
"""Values of a block (2 MiB of float32): they stay in a core's cache."""
DEVICE_VALUES: Final = 1 << 26
"""On a device, where many small blocks would cost more to launch than to compute (256 MiB)."""


def each_block(like: Array, rows: int, width: int, use: Callable[[slice], None]) -> None:
    """`use` of a few of `rows` of `width` values at a time, in threads if `like` is the host's."""
    step = max(1, (DEVICE_VALUES if on_gpu(like) else HOST_VALUES) // width)
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if on_gpu(like) or len(blocks) == 1:
        for block in blocks:
            use(block)
        return
    for _ in in_threads(use, blocks):
        pass


def in_threads(use: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """`use` of every task, on a thread a core; the results in the order of the tasks."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(use, tasks)
