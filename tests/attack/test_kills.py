"""A kill at every call that changes the disk leaves the old or the new; so do a full disk, a signal
and clocks that jump."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from mdrt.benchmarks.lab.attack.shim import built, run_under

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)

PROGRAM = """
import sys, tempfile
from pathlib import Path
from mdrt.benchmarks.lab.attack import kills
every = {one.name: one for one in (*kills.scenarios(), kills.torn())}
with tempfile.TemporaryDirectory() as folder:
    for name in sys.argv[3:]:
        try:
            attack = getattr(kills, sys.argv[1])
            print(name, attack(every[name], Path(folder), int(sys.argv[2])))
        except kills.Finding as finding:
            print(name, "finding:", finding)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("shim"))


def told(shim: Path, how: str, *names: str, step: int = 1) -> dict[str, str]:
    done = run_under(shim, ["-P", "-c", PROGRAM, how, str(step), *names])
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return {name: text for name, _, text in lines}


def test_the_old_or_the_new(shim: Path) -> None:
    found = told(shim, "kill_everywhere", "segment", "export", "build", "eval")
    assert all(text.isdigit() and int(text) > 10 for text in found.values()), found


def test_shards_of_a_batch_and_folders_of_formats(shim: Path) -> None:
    """At every ninth call; every one is `make attack LONG=1`'s."""
    found = told(shim, "kill_everywhere", "batch", "formats", step=9)
    assert all(text.isdigit() and int(text) > 10 for text in found.values()), found


def test_signals_and_clocks(shim: Path) -> None:
    found = told(shim, "interrupt_everywhere", "segment", "export", "batch", "formats", step=9)
    assert all(text.isdigit() and int(text) > 5 for text in found.values()), found


def test_the_campaign_sees_a_careless_writer(shim: Path) -> None:
    assert "finding" in told(shim, "kill_everywhere", "control")["control"]
