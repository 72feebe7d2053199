"""The three steps overlap, keep their order, and pass failures on."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mdrt.runtime.overlap import overlap


def test_every_item_in_order() -> None:
    found = overlap(range(7), lambda i: 10 * i, lambda i, x: (i, x), lambda i, pair: (i, pair))
    assert found == [(i, (i, 10 * i)) for i in range(7)]
    assert overlap([], lambda i: i, lambda i, x: x, lambda i, x: x) == []


def test_failures_reach_finish_and_stop_nothing() -> None:
    def read(item: int) -> int:
        if item == 1:
            raise OSError("read")
        return item

    def work(item: int, value: int) -> int:
        if item == 2:
            raise ValueError("work")
        return value

    found = overlap(range(4), read, work, lambda item, outcome: str(outcome))
    assert found == ["0", "read", "work", "3"]


def test_what_finish_raises_comes_out() -> None:
    def finish(item: int, outcome: object) -> None:
        raise RuntimeError(f"finish {item}")

    with pytest.raises(RuntimeError, match="finish 0"):
        overlap(range(3), lambda i: i, lambda i, x: x, finish)


def test_an_interrupt_lets_the_last_be_finished() -> None:
    done = threading.Event()

    def finish(item: int, outcome: object) -> None:
        time.sleep(0.1)  # until the other waits
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        done.set()

    # a shell's background jobs ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            overlap([0], lambda i: i, lambda i, x: x, finish)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.is_set()


def test_the_next_is_read_and_the_last_finished_meanwhile() -> None:
    """Work on item 1 waits for item 2 to be read and for item 0 to be finished: no deadlock."""
    seen = {(step, i): threading.Event() for step in ("read", "finish") for i in range(3)}

    def read(item: int) -> int:
        seen["read", item].set()
        return item

    def work(item: int, value: int) -> bool:
        return item != 1 or (seen["read", 2].wait(10) and seen["finish", 0].wait(10))

    def finish(item: int, outcome: bool | Exception) -> bool | Exception:
        seen["finish", item].set()
        return outcome

    assert overlap(range(3), read, work, finish) == [True] * 3


def test_no_more_than_three_are_held() -> None:
    held, most, lock = 0, 0, threading.Lock()

    def read(item: int) -> int:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return item

    def finish(item: int, outcome: int | Exception) -> None:
        nonlocal held
        with lock:
            held -= 1

    overlap(range(50), read, lambda i, x: x, finish)
    assert most <= 3
