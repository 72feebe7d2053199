"""The `mdrt` command as a process among others: pipes that close."""

import subprocess
import sys

import pytest

MDRT = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()"]


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_reader_that_leaves_early_ends_it_quietly(picture_file, tmp_path, form):
    """As `mdrt segment … | head -1` does."""
    arguments = ["segment", picture_file, "--classes", "sky", "--out", tmp_path / "out", *form]
    process = subprocess.Popen(
        [*MDRT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
