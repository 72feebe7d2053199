"""Inputs that coverage guides, for parsers in Python: atheris, where it is installed.

It is no dependency of anything: `pip install atheris` beside the rest is all it needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from .parsers import Parser

PARSERS: Final = ("class files", "manifest", "graphs", "noise", "sidecar", "records", "journals")
"""Those whose code is Python's, so that its branches are seen."""

_PROGRAM: Final = """
import sys, tempfile
from pathlib import Path
import atheris
with atheris.instrument_imports(include=["mdrt"]):
    from mdrt.benchmarks.lab.attack.parsers import ended, parsers
name, *arguments = sys.argv[1:]
folder = tempfile.mkdtemp(dir=arguments[0])
parser = {one.name: one for one in parsers(Path(folder))}[name]

def test(content):
    error = ended(parser, content)
    if error is not None:
        raise AssertionError(error)

atheris.Setup([sys.argv[0], *arguments[1:]], test)
atheris.Fuzz()
"""


def installed() -> bool:
    """Whether atheris is there."""
    return find_spec("atheris") is not None


def guided(parser: Parser, runs: int, folder: Path) -> tuple[int, str]:
    """So many inputs for a parser, and what is wrong with the one that crashed it; "" for none.

    Args:
        parser: of `PARSERS`.
        runs: inputs, the seeds counted.
        folder: an empty one, where what crashes is left.
    """
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-runs={runs}", "-seed=1", "-timeout=60", f"-artifact_prefix={folder}/"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, parser.name, str(folder), *options, str(corpus)],
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    counted = re.findall(r"^(?:Done |#)(\d+)", done.stderr, re.MULTILINE)
    ran = max(map(int, counted), default=0)
    if done.returncode == 0:
        return ran, ""
    return ran, done.stderr[-2000:]
