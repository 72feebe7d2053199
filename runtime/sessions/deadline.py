"""A limit of time for what runs in the main thread, a graph that never ends included."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from ..errors import MdrtError

_running: WeakSet[Any] = WeakSet()
_lock = threading.Lock()


class TimeoutReached(MdrtError):
    """Work took longer than it was given."""


@contextmanager
def stoppable(options: Any) -> Iterator[None]:
    """Around the run of a graph by ONNX Runtime, which looks at its options between two nodes."""
    with _lock:
        _running.add(options)
    try:
        yield
    finally:
        with _lock:
            _running.discard(options)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Stop what the block does after some seconds; None for no limit. In the main thread only.

    Between two steps of Python the block ends at once; a graph ends at its next node.

    Raises:
        TimeoutReached: it took longer.
    """
    if seconds is None:
        yield
        return
    main = threading.main_thread().ident
    assert main is not None  # it runs
    limit = f"it was stopped after {seconds:g} s, the limit"
    reached, inside = threading.Event(), True

    def stop(_number: int, _frame: object) -> None:
        if inside:
            raise TimeoutReached(limit, timeout=..., max_size=...)

    def ring() -> None:
        reached.set()
        signal.pthread_kill(main, signal.SIGALRM)
        with _lock:
            for options in _running:
                options.terminate = True

    before = signal.signal(signal.SIGALRM, stop)
    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TimeoutReached:
        raise
    except MdrtError as error:
        if reached.is_set():  # the graph's own word for it
            raise TimeoutReached(limit, timeout=..., max_size=...) from error
        raise
    finally:
        inside = False
        timer.cancel()
        signal.signal(signal.SIGALRM, before)
