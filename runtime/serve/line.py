"""A bounded line of work, some of it for one taker alone."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Condition
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Full(Exception):
    """There is no place in the line."""


class Line(Generic[Job]):
    """First come, first served, but that a job may be for one taker only; for any threads."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._waiting: list[tuple[Job, int | None]] = []
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, jobs: Sequence[tuple[Job, int | None]]) -> None:
        """Line jobs up, each with its taker, None for any: all of them or none.

        Raises:
            Full: there are not so many places, or the line is closed.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(jobs) > self.places:
                raise Full
            self._waiting += jobs
            self._changed.notify_all()

    def take(self, taker: int) -> Job | None:
        """The next job for a taker, waited for; None when the line is closed and has no more."""
        with self._changed:
            while True:
                for place, (job, owner) in enumerate(self._waiting):
                    if owner in (None, taker):
                        del self._waiting[place]
                        return job
                if self._closed:
                    return None
                self._changed.wait()

    def leave(self, job: Job) -> bool:
        """Take a job out that nobody waits for any more; whether it was still in the line."""
        with self._changed:
            for place, (waiting, _) in enumerate(self._waiting):
                if waiting is job:
                    del self._waiting[place]
                    return True
        return False

    def close(self) -> None:
        """Let nobody in any more; who is in the line is served."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
