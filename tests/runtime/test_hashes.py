"""Hashes of large files are remembered for as long as the file stays as it was."""

from __future__ import annotations

import hashlib
import os
import pwd
import time
from pathlib import Path

import pytest

from mdrt.runtime.disk import hashes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own; every file is large and old enough to be remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_REMEMBERED_ABOVE", 0)
    monkeypatch.setattr(hashes, "_SETTLED_NS", 0)
    return tmp_path / "cache" / "mdrt" / "hashes.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "unet.onnx.data"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number no user has."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def read_once(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from here on."""
    read: list[Path] = []
    real = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", lambda path: read.append(path) or real(path))
    return read


@pytest.mark.usefixtures("cache")
def test_a_second_look_reads_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.sha256(b"weights").hexdigest()
    read = read_once(monkeypatch)
    assert [hashes.remembered_sha256(weights) for _ in range(3)] == [expected] * 3
    assert read == [weights]


@pytest.mark.usefixtures("cache")
def test_a_change_is_seen_even_with_the_old_size_and_time(weights: Path) -> None:
    before, times = hashes.remembered_sha256(weights), weights.stat()
    time.sleep(0.05)  # beyond a tick of the file system's clock
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.stat().st_mtime_ns == times.st_mtime_ns
    assert hashes.remembered_sha256(weights) == hashlib.sha256(b"WEIGHTS").hexdigest() != before


@pytest.mark.usefixtures("cache")
def test_what_changed_just_now_is_not_remembered(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "_SETTLED_NS", 10**12)
    read = read_once(monkeypatch)
    for _ in range(2):
        hashes.remembered_sha256(weights)
    assert len(read) == 2


@pytest.mark.usefixtures("cache")
def test_another_file_in_its_place_is_seen(weights: Path, tmp_path: Path) -> None:
    hashes.remembered_sha256(weights)
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    other.replace(weights)
    assert hashes.remembered_sha256(weights) == hashlib.sha256(b"WEIGHTS").hexdigest()


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"x": 1}', "\0"])
def test_a_damaged_cache_is_made_anew(cache: Path, weights: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    expected = hashlib.sha256(b"weights").hexdigest()
    assert hashes.remembered_sha256(weights) == expected
    assert expected in cache.read_text()


def test_no_cache_can_be_written(
    cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    read = read_once(monkeypatch)
    for _ in range(2):
        assert hashes.remembered_sha256(weights) == hashlib.sha256(b"weights").hexdigest()
    assert len(read) == 2


@pytest.mark.usefixtures("cache", "homeless")
def test_a_user_without_a_home_keeps_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    read = read_once(monkeypatch)
    for _ in range(2):
        assert hashes.remembered_sha256(weights) == hashlib.sha256(b"weights").hexdigest()
    assert len(read) == 2
    assert set(tmp_path.iterdir()) == before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where it is to be kept
    hashes.remembered_sha256(weights)
    assert (tmp_path / "cache" / "mdrt" / "hashes.json").exists()


@pytest.mark.usefixtures("cache")
def test_it_does_not_grow_for_ever(tmp_path: Path, cache: Path) -> None:
    for number in range(hashes._MOST + 5):
        path = tmp_path / f"{number}.data"
        path.write_bytes(b"x")
        hashes.remembered_sha256(path)
    assert len(hashes._read()) == hashes._MOST
    assert cache.exists()
