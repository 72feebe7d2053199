"""`mdrt bench serve`: a real server, real clients, nothing lost."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette", reason="needs the extra serve")

from mdrt.benchmarks.speed.load import measure
from mdrt.cli import main


def test_every_request_has_its_answer() -> None:
    done = CliRunner().invoke(
        main, ["bench", "serve", "--clients", "1,4", "--requests", "6", "--json"]
    )
    assert done.exit_code == 0, done.output
    loads = json.loads(done.stdout)["loads"]
    assert [load["clients"] for load in loads] == [1, 4]
    for load in loads:
        assert (load["answered"], load["lost"]) == (6, 0)
        assert 0 < load["p50"] <= load["p99"] <= load["seconds"]
        assert load["rate"] == pytest.approx(6 / load["seconds"])


def test_a_server_that_is_not_there_loses_all() -> None:
    load = measure("http://127.0.0.1:1", 0, [b"x"], 2, 4)
    assert (load.answered, load.lost, load.memory) == (0, 4, 0)
