"""Threads that segment, each with networks and looks of its own, and the line before them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from statistics import fmean
from threading import Lock, Thread
from typing import Any, Final

from numpy.typing import NDArray

from ..segmenter import Look, Segmenter
from .limits import Limits
from .line import Full, Line
from .looks import Looks
from .problems import Problem

REMEMBERED: Final = 64
"""Jobs by whose duration a caller is told when to come again."""


class Stopped(Exception):
    """Nobody waits for this job any more."""


class Job:
    """One picture's work.

    Attributes:
        work: what a worker does for it.
        look: the handle of the look that it asks, if it is of one.
        done: what `work` gave or raised.
        stopped: whether its caller went away.
    """

    def __init__(self, work: Callable[[Worker], Any], look: str | None = None) -> None:
        self.work, self.look = work, look
        self.done: Future[Any] = Future()
        self.stopped = False


class Worker:
    """A segmenter and its looks, for one thread."""

    def __init__(self, segmenter: Segmenter, looks: Looks, found: Callable[[str], None]) -> None:
        self.segmenter, self.looks, self._found = segmenter, looks, found
        self.job: Job | None = None
        self.hits = self.misses = 0

    def look(self, name: str) -> Look:
        """A look that is kept.

        Raises:
            Problem: it is not.
        """
        look = self.looks.get(name)
        if look is None:
            raise not_kept(name)
        self.hits += 1
        return look

    def look_at(self, name: str, read: Callable[[], NDArray[Any]], max_size: int) -> Look:
        """The look of this handle, or a new one at the picture that `read` gives."""
        look = self.looks.get(name)
        if look is not None:
            self.hits += 1
            return look
        self.misses += 1
        look = self.segmenter.look(read(), max_size=max_size, progress=self._go_on)
        self.looks.put(name, look)
        self._found(name)
        return look

    def _go_on(self, done: int, total: int) -> None:
        """Between two batches of tiles: nothing more is computed for a caller who is gone."""
        if self.job is not None and self.job.stopped:
            raise Stopped


class Workers:
    """So many workers, and who has which look."""

    def __init__(self, load: Callable[[], Segmenter], count: int, limits: Limits) -> None:
        """Start them; each loads its own networks.

        Raises:
            MdrtError: what `load` raised.
        """
        self.limits = limits
        self.line: Line[Job] = Line(limits.waiting)
        self.closing = False
        self._load, self._lock = load, Lock()
        self._owners: dict[str, int] = {}
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self.every: list[Worker] = []
        self._threads: list[Thread] = []
        for index in range(count):
            loaded: Future[Worker] = Future()
            thread = Thread(target=self._run, args=(index, count, loaded), name=f"worker-{index}")
            thread.start()
            self._threads.append(thread)
            try:
                self.every.append(loaded.result())
            except BaseException:
                self.close()
                raise

    @property
    def segmenter(self) -> Segmenter:
        """The first worker's: what settings and names mean is the same for all."""
        return self.every[0].segmenter

    @property
    def busy(self) -> int:
        """Workers that are at work."""
        return sum(worker.job is not None for worker in self.every)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Line jobs up, each for the worker that has its look.

        Raises:
            Problem: the line is full; it says when to try again.
        """
        with self._lock:
            owned = [(job, self._owners.get(job.look or "")) for job in jobs]
        try:
            self.line.put(owned)
        except Full:
            wait = str(self.seconds_to_wait())
            reason = (
                "the server is shutting down"
                if self.closing
                else f"{len(self.line)} pictures wait already, and {self.limits.waiting} may; "
                f"try again in {wait} s"
            )
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, reason, {"Retry-After": wait}) from None

    def knows(self, name: str) -> bool:
        """Whether any worker keeps this look."""
        with self._lock:
            return name in self._owners

    def stop(self, job: Job) -> None:
        """Let a job be: its caller is gone. What runs stops at the next batch of tiles."""
        job.stopped = True
        if self.line.leave(job):
            job.done.cancel()

    def seconds_to_wait(self) -> int:
        """When there may be a place again, by how long the latest jobs took."""
        mean = fmean(self._took) if self._took else 1.0
        return max(1, math.ceil(mean * max(1, len(self.line)) / max(1, len(self._threads))))

    def close(self) -> None:
        """Serve who is in the line, then give everything back."""
        self.closing = True
        self.line.close()
        for thread in self._threads:
            thread.join()
        for worker in self.every:
            worker.segmenter.close()

    def _run(self, index: int, count: int, loaded: Future[Worker]) -> None:
        def found(name: str) -> None:
            with self._lock:
                self._owners[name] = index

        def gone(name: str) -> None:
            with self._lock:
                if self._owners.get(name) == index:
                    del self._owners[name]

        try:
            segmenter = self._load()
            worker = Worker(segmenter, Looks(self.limits.looks // count, gone), found)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(worker)
        while (job := self.line.take(index)) is not None:
            self._work(worker, job)

    def _work(self, worker: Worker, job: Job) -> None:
        if not job.done.set_running_or_notify_cancel():
            return
        start, worker.job = time.perf_counter(), job
        try:
            if job.stopped:
                raise Stopped
            value = job.work(worker)
        except BaseException as error:
            outcome: tuple[Any, BaseException | None] = None, error
        else:
            outcome = value, None
            self._took.append(time.perf_counter() - start)
        try:
            worker.looks.trim()
        finally:
            worker.job = None
            value, failed = outcome
            job.done.set_exception(failed) if failed else job.done.set_result(value)


def not_kept(name: str) -> Problem:
    """What a caller is told of a look that is not kept."""
    return Problem(
        HTTPStatus.NOT_FOUND, f"look {name[:40]} is not kept (any more); post the picture again"
    )
