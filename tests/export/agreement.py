"""`mdrt bench parity` as its tests call it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from mdrt.cli import main


def shares(bundle: Path, source: Path, size: int) -> dict[str, float]:
    """The least share of equal labels by mode or head, of a bundle every tensor of which agrees."""
    arguments = ["--engine", bundle, "--pipeline", source, "--size", size, "--classes", 3, "--json"]
    done = CliRunner().invoke(main, ["bench", "parity", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert all(row["passed"] for row in found["tensors"])
    least: dict[str, float] = {}
    for row in found["labels"]:
        least[row["mode"]] = min(row["share"], least.get(row["mode"], 1.0))
    return least
