"""The line before the workers."""

from __future__ import annotations

from threading import Thread

import pytest

from mdrt.runtime.serve.line import Full, Line


def test_first_come_first_served_but_for_jobs_of_one_taker() -> None:
    line: Line[str] = Line(4)
    line.put([("a", None), ("b", 1), ("c", None), ("d", 0)])
    assert [line.take(0), line.take(0), line.take(0)] == ["a", "c", "d"]
    assert line.take(1) == "b"


def test_all_of_a_request_find_a_place_or_none() -> None:
    line: Line[str] = Line(3)
    line.put([("a", None), ("b", None)])
    with pytest.raises(Full):
        line.put([("c", None), ("d", None)])
    assert len(line) == 2
    line.put([("c", None)])


def test_who_leaves_makes_room() -> None:
    line: Line[str] = Line(1)
    line.put([("a", None)])
    assert line.leave("a")
    assert not line.leave("a")
    line.put([("b", None)])


def test_a_closed_line_serves_who_is_in_it() -> None:
    line: Line[str] = Line(2)
    line.put([("a", None)])
    line.close()
    with pytest.raises(Full):
        line.put([("b", None)])
    assert line.take(0) == "a"
    assert line.take(0) is None


def test_a_taker_waits_until_there_is_a_job() -> None:
    line: Line[str] = Line(2)
    found: list[str | None] = []
    taker = Thread(target=lambda: found.append(line.take(0)))
    taker.start()
    line.put([("other", 1), ("own", 0)])
    taker.join(5)
    assert found == ["own"]
