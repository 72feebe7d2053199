"""BLAS takes one thread while mdrt computes, and what it took before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import numpy as np
import pytest

from mdrt import Segmenter
from mdrt.runtime import blas
from mdrt.runtime.blas import Threads, one_thread
from mdrt.runtime.look.taps import Taps


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Of NumPy's OpenBLAS, two as the caller wants it."""
    found = blas.openblas()
    if found is None:
        pytest.skip("NumPy has another BLAS here")
    before = found.get()
    found.set(2)
    if found.get() != 2:
        pytest.skip("OpenBLAS takes one thread only here")
    yield found
    found.set(before)


def test_one_thread_within_and_the_callers_own_after(threads: Threads) -> None:
    with one_thread():
        assert threads.get() == 1
        with one_thread():
            assert threads.get() == 1
        assert threads.get() == 1
    assert threads.get() == 2


def test_an_error_leaves_nothing_behind(threads: Threads) -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert threads.get() == 2


def test_of_calls_that_overlap_the_last_restores(threads: Threads) -> None:
    """The first to begin is the first to end: the second still has one thread."""
    inside, ended = Barrier(2, timeout=60), Event()

    def first() -> None:
        with one_thread():
            inside.wait()
        ended.set()

    def second() -> int:
        with one_thread():
            inside.wait()
            assert ended.wait(60)
            return threads.get()

    with ThreadPoolExecutor(2) as pool:
        running, later = pool.submit(first), pool.submit(second)
        running.result()
        assert later.result() == 1
    assert threads.get() == 2


def test_a_segmenter_computes_on_one_thread(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    features = Taps.features

    def noting(*args: object, **kwargs: object) -> object:
        seen.append(threads.get())
        return features(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Taps, "features", noting)
    with Segmenter() as segmenter:
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        segmenter(image, ["sky", "sea"])
        segmenter(image, segments=2)
    assert seen
    assert set(seen) == {1}
    assert threads.get() == 2


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "openblas", lambda: None)
    with one_thread():
        pass
