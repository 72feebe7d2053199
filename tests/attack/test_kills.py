"""A kill at every call that changes the disk leaves the old or the new; so does a full disk."""

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
    for name in sys.argv[1:]:
        try:
            print(name, kills.kill_everywhere(every[name], Path(folder)))
        except kills.Finding as finding:
            print(name, "finding:", finding)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("shim"))


def killed(shim: Path, *names: str) -> dict[str, str]:
    done = run_under(shim, ["-P", "-c", PROGRAM, *names])
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return {name: told for name, _, told in lines}


def test_the_old_or_the_new(shim: Path) -> None:
    found = killed(shim, "segment", "export", "build", "eval")
    assert all(told.isdigit() and int(told) > 10 for told in found.values()), found


def test_the_campaign_sees_a_careless_writer(shim: Path) -> None:
    assert "finding" in killed(shim, "control")["control"]
