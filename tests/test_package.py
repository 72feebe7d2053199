"""What a base install is: light, without PyTorch, with the embedded model."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, requires
from importlib.metadata import version as metadata_version
from pathlib import Path

import pytest

from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.segmenter import EMBEDDED

ROOT = Path(__file__).parents[1]
MAKEFILE = ROOT / "Makefile"
ROOMS = ("mdrt", "export", "runtime", "kernels", "benchmarks")
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "cupy", "tensorrt"}


def test_the_base_install_needs_nothing_heavy():
    base = [line for line in requires("mdrt") or [] if "extra ==" not in line]
    names = {re.split(r"[<>=!~ ;\[]", line)[0].lower() for line in base}
    assert names == {"click", "numpy", "pillow", "rich", "tokenizers"}
    assert not names & HEAVY


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="mdrt")
    assert command.value == "mdrt.cli:main"


def test_a_checkout_that_is_not_installed_can_be_imported_at_its_root(tmp_path):
    for room in ROOMS:
        (tmp_path / room).symlink_to(ROOT / room)
    program = "import mdrt, mdrt.kernels as k; print(mdrt.__version__, mdrt.__file__, k.__file__)"
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=inherited, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    version, face, kernels = done.stdout.split()
    assert version == metadata_version("mdrt")
    assert Path(face) == tmp_path / "mdrt" / "__init__.py"
    assert Path(kernels).resolve() == ROOT / "kernels" / "__init__.py"


@pytest.mark.parametrize("room", ROOMS[1:])
def test_rooms_leave_the_terminal_to_the_command_line(room):
    """Commands, tables and bars are in mdrt/cli; the laboratory has small commands of its own."""
    for path in (ROOT / room).rglob("*.py"):
        if "lab" not in path.relative_to(ROOT).parts:
            assert not re.search(
                r"^\s*(import|from) (click|rich)\b", path.read_text(), re.MULTILINE
            )


def test_the_embedded_bundle_is_whole_and_small():
    bundle = load_bundle(EMBEDDED, verify=True)
    assert len(bundle.manifest.classes) == 14
    assert sum(record.bytes for record in bundle.manifest.files.values()) <= 25e6


@pytest.fixture
def tarball(tmp_path):
    """The Makefile beside empty rooms, without git."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("constraints.txt", "pyproject.toml", *(f"{room}/__init__.py" for room in ROOMS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def make(folder, *arguments):
    """Run make as from a shell: when `make test` runs this, its own flags must not reach it."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.parametrize("target", ["demo", "lint"])
def test_make_refuses_an_old_python_in_one_line(tarball, target):
    old = tarball / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[2])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{pretend}' \"$@\"\n")
    old.chmod(0o755)
    done = make(tarball, target, f"PYTHON={old}")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line == (
        "mdrt needs Python 3.11 or newer; found 3.9; "
        "run make PYTHON=python3.12, or whichever is installed"
    )
    assert not list(tarball.glob(".venv*/bin"))


def test_make_knows_the_sources_without_git(tarball):
    stamp = tarball / ".venv-run" / "installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert make(tarball, "-q", ".venv-run/installed").returncode == 0
    cached = tarball / "runtime" / "__pycache__" / "x.pyc"
    cached.parent.mkdir()
    for changed, stale in ((cached, False), (tarball / "runtime" / "new.py", True)):
        changed.touch()
        os.utime(changed, (stamp.stat().st_mtime + 10,) * 2)
        assert (make(tarball, "-q", ".venv-run/installed").returncode == 1) == stale
