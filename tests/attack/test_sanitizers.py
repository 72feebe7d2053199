"""The operators under sanitizers, on what every processor has; all sets are `make attack`'s."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdrt.benchmarks.lab.attack.sanitizers import CONTROL, passed, run_tests, sanitized

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++"
)


def built(folder: Path, **options: str | bool) -> Path:
    try:
        return sanitized(folder, **options)
    except subprocess.CalledProcessError as error:
        if "cannot find" in error.stderr:
            pytest.skip("g++ has no sanitizers")
        raise


def test_gates_are_within_their_bounds(tmp_path: Path) -> None:
    done = run_tests(built(tmp_path, plain=True), "plain", "gates")
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed(done) >= 6


def test_an_operator_without_its_bound_is_reported(tmp_path: Path) -> None:
    done = run_tests(built(tmp_path, **CONTROL), "plain", "gates")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stdout + done.stderr
