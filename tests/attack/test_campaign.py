"""Every parser under mutated inputs, the control that must be caught, and inputs that crashed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mdrt.benchmarks.lab.attack.parsers import Parser, attack, careless, ended, parsers
from mdrt.benchmarks.lab.attack.requests import requests

RUNS = 40
CRASHED = {
    "journals": [b'{"names": [], "gone": [], "seen": 7}', b'{"names": [], "gone": [], "seen": []}'],
    "tokenizer": [b'{"normalizer": {"type": "Precompiled"}}', b"[]", b"{}"],
    "records": [b"[" * 100_000, b"{"],
    "noise": [b"", b"\x93NUMPY\x01\x00\x04\x00((((", b"PK\x03\x04"],
    "manifest": [b'{"schema_version": 6, "sha256": ""}', b"1" * 5000],
    "sidecar": [b"[" * 100_000, b"null"],
    "requests": [
        b"GET /v1/model\nhost: localhost\norigin: p://[\n\n",
        b"GET /\nhost: [::1\n\n",
        b"GET /\nhost: localhost\ncontent-length: \xb2\n\n",
        b"GET /v1/model\nhost: localhost\nauthorization: Basic \xff\n\n",
        b"GET /v1/model/?\xf4\nhost: localhost\nauthorization: Bearer s3cret\n\n",
        b"POST /predict\nhost: localhost\nauthorization: Bearer s3cret\n\n"
        b'{"tasks": [{}], "label_config": "\\ud800"}',
    ],
    "results": [b"", b"SQLite format 3\0"],
}
"""As small as they still crashed something once, here or in a library."""


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Parser]]:
    with requests() as server:
        found = [*parsers(tmp_path_factory.mktemp("attack")), server]
        yield {one.name: one for one in found}


NAMES = ("pictures", "class files", "manifest", "graphs", "tokenizer", "noise", "sidecar")


@pytest.mark.parametrize("name", [*NAMES, "results", "records", "journals", "requests"])
def test_only_allowed_errors(every: dict[str, Parser], name: str) -> None:
    parser = every[name]
    for seed in parser.seeds:  # what is whole is read, but for an engine that is none
        assert name == "sidecar" or ended(parser, seed) is None
    assert not list(attack(parser, RUNS, np.random.default_rng(1)))


@pytest.mark.parametrize("name", CRASHED)
def test_inputs_that_crashed(every: dict[str, Parser], name: str) -> None:
    for content in CRASHED[name]:
        assert ended(every[name], content) is None


def test_the_campaign_sees_a_careless_reader(tmp_path: Path) -> None:
    crashes = list(attack(careless(), 200, np.random.default_rng(1)))
    assert crashes
    assert all(ended(careless(), crash.content) for crash in crashes)
    assert min(len(crash.content) for crash in crashes) < len(careless().seeds[0])
