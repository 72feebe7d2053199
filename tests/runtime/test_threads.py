"""What `Segmenter` allows between threads: any may call, and calls take turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mdrt
from mdrt.kernels import Array
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.base import Session
from mdrt.runtime.sessions.ort import OrtSession

LISTS = (["sky", "grass"], ["water", "boat", "sky"], ["tree", ("house", "building"), "road"])


class Seen:
    """How many graphs of a segmenter ran at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = Lock()

    def session(self, path: Path) -> Session:
        seen = self

        class Watched(OrtSession):
            def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
                with seen._lock:
                    seen.now += 1
                    seen.most = max(seen.most, seen.now)
                try:
                    time.sleep(0.01)  # long enough for another thread to come in between
                    return super()._compute(names, feeds)
                finally:
                    with seen._lock:
                        seen.now -= 1

        return Watched(path)


@pytest.fixture
def watched() -> tuple[mdrt.Segmenter, Seen]:
    seen = Seen()
    return mdrt.Segmenter(EMBEDDED, open_graph=seen.session), seen


def test_calls_of_several_threads_take_turns_and_answer_as_one_thread_does(
    watched: tuple[mdrt.Segmenter, Seen], segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]
) -> None:
    ours, seen = watched
    pictures = [picture, np.ascontiguousarray(picture[:, ::-1])]
    asked: list[tuple[NDArray[np.uint8], Any]] = [(p, names) for p in pictures for names in LISTS]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda each: ours(*each), asked))
    assert seen.most == 1
    for (image, names), result in zip(asked, found, strict=True):
        expected = segmenter(image, names)
        assert result.classes == expected.classes
        assert (result.labels == expected.labels).mean() > 0.999


def test_one_look_is_asked_and_released_by_several_threads(
    watched: tuple[mdrt.Segmenter, Seen], picture: NDArray[np.uint8]
) -> None:
    ours, seen = watched
    look = ours.look(picture)
    expected = [look.segment(names, words="late").labels for names in LISTS]

    def ask(turn: int) -> bool:
        if turn % 5 == 4:
            look.release()
            return look.nbytes >= picture.nbytes
        labels = look.segment(LISTS[turn % 3], words="late").labels
        return bool((labels == expected[turn % 3]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(20)))
    assert seen.most == 1


def test_a_look_tells_what_it_keeps(segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]) -> None:
    look = segmenter.look(picture)
    assert look.nbytes == picture.nbytes
    look.segment(["sky", "grass"])
    assert look.nbytes > 2 * picture.nbytes
    look.release()
    assert look.nbytes == picture.nbytes
