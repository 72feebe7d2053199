"""Folders come into place whole and remove nothing, with the system's help and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdrt.runtime.disk import folders
from mdrt.runtime.disk.folders import exchange, rename_new


@pytest.fixture(params=["one step", "composed"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that can rename in one step, as far as this one can, and one that cannot."""
    if request.param == "composed":
        monkeypatch.setattr(folders, "_system_call", lambda: None)
    return request.param


def folder(path: Path) -> Path:
    """A folder that holds a file of its own name."""
    path.mkdir()
    (path / path.name).write_text("")
    return path


def held(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()]


def test_a_new_name(tmp_path: Path) -> None:
    rename_new(folder(tmp_path / "a"), tmp_path / "b")
    assert held(tmp_path) == ["b"]
    assert held(tmp_path / "b") == ["a"]


@pytest.mark.parametrize("kind", ["full", "empty", "file", "dangling", "linked"])
def test_what_has_the_name_is_kept(tmp_path: Path, kind: str) -> None:
    source, target = folder(tmp_path / "a"), tmp_path / "b"
    if kind == "full":
        folder(target)
    elif kind == "empty":
        target.mkdir()
    elif kind == "file":
        target.write_text("")
    else:
        target.symlink_to(tmp_path / "nowhere" if kind == "dangling" else folder(tmp_path / "c"))
    before = target.lstat()
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    assert target.lstat() == before
    assert held(source) == ["a"]


def test_what_appears_in_the_last_moment_is_kept(
    tmp_path: Path, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system != "composed":
        pytest.skip("in one step there is no such moment")
    rename = Path.rename

    def late(source: Path, target: Path) -> Path:
        (target / "late").write_text("")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(FileExistsError):
        rename_new(folder(tmp_path / "a"), tmp_path / "b")
    assert held(tmp_path / "b") == ["late"]


def test_an_exchange(tmp_path: Path) -> None:
    exchange(folder(tmp_path / "a"), folder(tmp_path / "b"))
    assert held(tmp_path / "a") == ["b"]
    assert held(tmp_path / "b") == ["a"]
    assert sorted(held(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("present", ["a", "b"])
def test_an_exchange_with_nothing(tmp_path: Path, present: str) -> None:
    folder(tmp_path / present)
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")
    assert held(tmp_path) == [present]
    assert held(tmp_path / present) == [present]


def test_a_refusal_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(folder(tmp_path / "a"), tmp_path / "nowhere" / "b")
    assert held(tmp_path) == ["a"]
