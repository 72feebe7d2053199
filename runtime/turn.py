"""Whose turn it is: one call at a time, in the process that began."""

from __future__ import annotations

import os
from threading import RLock
from types import TracebackType

from .errors import MdrtError


class Turn:
    """A lock that its holder may take again, for what does not outlive a fork.

    A fork copies memory, and none of the threads: what they held stays locked, what they were to do
    is never done. So a child is told at once, where it would wait for ever.
    """

    def __init__(self) -> None:
        self._lock, self._process = RLock(), os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this is the process that began."""
        return os.getpid() == self._process

    def __enter__(self) -> None:
        """Wait for it.

        Raises:
            MdrtError: the process is a fork of the one that began.
        """
        if not self.ours:
            raise MdrtError(
                f"this segmenter was loaded by process {self._process}, of which this one is a "
                "fork, and its threads stayed there; load one after the fork, in each process"
            )
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
