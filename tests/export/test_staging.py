"""A bundle comes into place whole, and nothing that another has made is ever removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from mdrt.export.staging import staged
from mdrt.runtime.bundle.contract import MANIFEST
from mdrt.runtime.disk import folders
from mdrt.runtime.errors import ExportError


@pytest.fixture(params=["one step", "composed"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that can rename in one step, as far as this one can, and one that cannot."""
    if request.param == "composed":
        monkeypatch.setattr(folders, "_system_call", lambda: None)
    return request.param


def write(folder: Path, text: str) -> Path:
    """Make of a folder what passes for a bundle here."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(text)
    return folder


def read(target: Path) -> str:
    return (target / MANIFEST).read_text()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["full", "empty", "file", "dangling"])
def test_what_appeared_meanwhile_is_kept(tmp_path: Path, kind: str, overwrite: bool) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(ExportError, match="appeared while"), staged(target, overwrite) as aside:  # noqa: PT012
        write(aside, "new")
        if kind == "full":
            write(target, "another's")
        elif kind == "empty":
            target.mkdir()
        elif kind == "file":
            target.write_text("another's")
        else:
            target.symlink_to("nowhere")
        before = target.lstat()
    assert target.lstat() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_writers_one_wins(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "bundle"
    if overwrite:
        write(target, "old")
    with pytest.raises(ExportError), staged(target, overwrite) as slow:  # noqa: PT012
        write(slow, "slow")
        with staged(target, overwrite) as fast:
            write(fast, "fast")
    assert read(target) == "fast"
    assert list(tmp_path.iterdir()) == [target]


def test_a_bundle_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    target = write(tmp_path / "bundle", "old")
    with staged(target, overwrite=True) as aside:
        write(aside, "new")
        target.rename(tmp_path / "moved")
    assert read(target) == "new"
    assert read(tmp_path / "moved") == "old"


def test_what_came_between_the_last_look_and_the_exchange_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write(tmp_path / "bundle", "old")
    real = folders.exchange

    def late(one: Path, other: Path) -> None:
        if read(target) == "old":
            target.rename(tmp_path / "moved")
            write(target, "another's")
        real(one, other)

    monkeypatch.setattr("mdrt.export.staging.exchange", late)
    with pytest.raises(ExportError, match="changed meanwhile"), staged(target, True) as aside:
        write(aside, "new")
    assert read(target) == "another's"
    assert sorted(tmp_path.iterdir()) == [target, tmp_path / "moved"]


def test_a_link_to_a_bundle_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    real = write(tmp_path / "real", "old")
    target = tmp_path / "bundle"
    target.symlink_to(real)
    with staged(target, overwrite=True) as aside:
        write(aside, "new")
    assert read(target) == "new"
    assert not target.is_symlink()
    assert read(real) == "old"
    assert sorted(tmp_path.iterdir()) == [target, real]


def test_there_is_no_moment_without_a_bundle(tmp_path: Path, system: str) -> None:
    if system == "composed" or folders._system_call() is None:
        pytest.skip("needs a system that exchanges folders in one step")
    target = write(tmp_path / "bundle", "old")
    done, missed = Event(), []

    def watch() -> None:
        while not done.is_set():
            try:
                read(target)
            except FileNotFoundError:
                if not target.exists():
                    missed.append(1)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        for number in range(200):
            with staged(target, overwrite=True) as aside:
                write(aside, f"{number}")
    finally:
        done.set()
        watcher.join()
    assert not missed


def test_a_kill_leaves_the_old_bundle_or_the_new(tmp_path: Path, system: str) -> None:
    """Killed in the exchange itself, before and after the system was asked."""
    if system == "composed" or folders._system_call() is None:
        pytest.skip("needs a system that exchanges folders in one step")
    for moment, left in (("before", "old"), ("after", "new")):
        target = write(tmp_path / moment, "old")
        script = f"""
import os, pathlib, signal
from mdrt.export import staging
real = staging.exchange
def killed(*folders):
    if {moment!r} == "after":
        real(*folders)
    os.kill(os.getpid(), signal.SIGKILL)
staging.exchange = killed
with staging.staged(pathlib.Path({str(target)!r}), overwrite=True) as aside:
    (aside / {MANIFEST!r}).write_text("new")
"""
        done = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
        assert done.returncode == -signal.SIGKILL
        assert read(target) == left
