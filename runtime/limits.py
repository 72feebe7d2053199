"""No more memory than the machine can give: then what is too large fails, and nothing else ends."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_KEPT: Final = 1 << 28
"""Bytes left to others, and to what is counted late."""


@contextmanager
def within_memory(most: int | None = None) -> Iterator[None]:
    """In the block, let allocations fail where they would make the system end this process.

    A picture that takes too much is then an error of its own, and the next is worked on. On Linux
    alone; elsewhere nothing is done.

    Args:
        most: bytes that this process may take; None: what it has, and what is free now.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        if most is None:
            status, free = (_table(Path(f"/proc/{name}")) for name in ("self/status", "meminfo"))
            most = status["VmData"] + min([free["MemAvailable"], *_of_cgroup()]) - _KEPT
        if before[0] != resource.RLIM_INFINITY:
            most = min(most, before[0])
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _table(path: Path) -> dict[str, int]:
    """Bytes by name, of a file of /proc."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {r[0].rstrip(":"): int(r[1]) * 1024 for r in rows if len(r) == 3 and r[2] == "kB"}


def _of_cgroup() -> list[int]:
    """Bytes that the limits of the container leave, as far as it has any."""
    left = []
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with suppress(OSError, ValueError):
            left.append(int(Path(most).read_text()) - int(Path(used).read_text()))
    return left
