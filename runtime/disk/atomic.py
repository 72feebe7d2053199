"""Files that come into place together, whole: the old ones or the new, however the process ends.

A set is written into a folder of its own beside its targets, `.mdrt-….part`, which is locked while
its writer lives, is brought to the disk, and counts from one rename on, to `.mdrt-….whole`. Then
its files move to their places; where that is interrupted, `recover` ends it at the next start, and
removes what was not whole yet.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, TypeAlias
from uuid import uuid4

from ..errors import OutputError

PREFIX: Final = ".mdrt-"
"""What the names of all that is under way begin with."""
PART, WHOLE, OLD = ".part", ".whole", ".old"
_JOURNAL: Final = ".journal"

State: TypeAlias = tuple[int, ...] | None
"""Which file stands somewhere, None for none: another one, or another content, differs."""


def state(path: Path) -> State:
    """What stands at a path now; a link is itself, not what it leads to."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file aside and rename it: it is whole or not there.

    Raises:
        OutputError: the disk refused.
    """
    aside = path.parent / f"{PREFIX}{uuid4().hex}{PART}"
    try:
        with aside_file(aside) as file:
            write(file)
            settle(file)
            aside.replace(path)
        settle_folder(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def write_together(
    writes: Mapping[Path, Callable[[BinaryIO], object]], seen: Mapping[Path, State] | None = None
) -> None:
    """Write files of one folder, each by its function: all of them appear, or none does.

    Args:
        writes: by path, in the order in which they appear.
        seen: what stood there when it was decided that it may be replaced; None: whatever does now.

    Raises:
        OutputError: the disk refused, or something else than `seen` stands there now.
    """
    path = next(iter(writes))
    try:
        with together(path.parent) as moving:
            moving.seen = None if seen is None else {p.name: seen[p] for p in writes}
            for path, write in writes.items():
                with (moving.folder / path.name).open("wb") as file:
                    write(file)
                    settle(file)
                moving.names.append(path.name)
    except OSError as error:
        raise _refused(path, error) from error


@dataclass
class Moving:
    """A set of files on their way.

    Attributes:
        folder: where they are written.
        names: of those that shall come into place, in this order.
        gone: names of what stands there and shall go.
        seen: by name, what the files replace; None: whatever stands there at the end.
    """

    folder: Path
    names: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    seen: Mapping[str, State] | None = None


@contextmanager
def together(folder: Path) -> Iterator[Moving]:
    """Files of one folder, written in the block and put into place when it ends without an error.

    Raises:
        OutputError: what was to be replaced is another file by now.
        OSError: the disk refused.
    """
    with aside_folder(folder) as aside:
        moving = Moving(aside)
        yield moving
        with locked(folder):
            now = {name: state(folder / name) for name in (*moving.names, *moving.gone)}
            for name, found in (moving.seen or {}).items():
                if now[name] != found:
                    raise OutputError(
                        f"{folder / name} changed while its successor was made, and is kept; "
                        "another run writes there: give this one another folder, or run it again",
                        out=...,
                    )
            journal = {"names": moving.names, "gone": moving.gone, "seen": now}
            with (aside / _JOURNAL).open("w", encoding="utf-8") as file:
                json.dump(journal, file)
                settle(file)
            settle_folder(aside)
            whole = aside.with_suffix(WHOLE)
            aside.rename(whole)
            settle_folder(folder)
            _place(whole)


def recover(folder: Path) -> None:
    """End what runs that were killed had begun in a folder: what was whole comes into place, the
    rest goes. What others put there since stays, and where the disk refuses, all stays."""
    try:
        if not any(path.name.startswith(PREFIX) for path in folder.iterdir()):
            return
        with locked(folder):
            for path in sorted(folder.glob(f"{PREFIX}*")):
                real = path.is_dir() and not path.is_symlink()
                if path.suffix == WHOLE and real:
                    _place(path)
                elif path.suffix == OLD and real:
                    _put_back(path)
                elif path.suffix == PART and _abandoned(path):
                    remove(path)
    except OSError:
        return


@contextmanager
def aside_folder(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, removed in the end if it is there still; while this process
    lives nobody else does that.

    Raises:
        OSError: the disk refused.
    """
    aside = folder / f"{PREFIX}{uuid4().hex}{PART}"
    with locked(folder):
        aside.mkdir()
        lock = os.open(aside, os.O_RDONLY)
        _lock(lock, fcntl.LOCK_EX)
    try:
        yield aside
    finally:
        if os.path.lexists(aside) and os.path.samestat(aside.lstat(), os.fstat(lock)):
            remove(aside)
        os.close(lock)


@contextmanager
def aside_file(aside: Path) -> Iterator[BinaryIO]:
    """A new file to write, which nobody sweeps while this process lives."""
    with locked(aside.parent):
        file = aside.open("xb")
        _lock(file.fileno(), fcntl.LOCK_EX)
    with file:
        yield file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other run change what a folder holds. The lock is the folder's own: it leaves no file,
    and goes with the process however it ends. Without it where a file system has none."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def settle(file: IO[Any]) -> None:
    """Bring what was written to the disk before what comes next.

    Raises:
        OSError: it cannot be.
    """
    file.flush()
    os.fsync(file.fileno())


def settle_folder(folder: Path) -> None:
    """Bring the names that a folder holds to the disk before what comes next.

    Raises:
        OSError: they cannot be.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no folders
            raise
    finally:
        os.close(opened)


def settle_tree(folder: Path) -> None:
    """Bring every file and every name below a folder to the disk.

    Raises:
        OSError: they cannot be.
    """
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        if path.is_dir():
            settle_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a folder or a file of ours, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _place(whole: Path) -> None:
    """Move a set's files to their places, or those that are left of it."""
    folder = whole.parent
    try:
        journal = json.loads((whole / _JOURNAL).read_text(encoding="utf-8"))
        names, gone = list(journal["names"]), list(journal["gone"])
        seen = {name: found and tuple(found) for name, found in journal["seen"].items()}
        if any(Path(name).name != name for name in (*names, *gone)):
            return  # none of ours: they are of this folder
        left = [name for name in names if (whole / name).exists()]
        if all(state(folder / name) == seen[name] for name in left):
            for name in left:
                (whole / name).replace(folder / name)
            for name in gone:
                if state(folder / name) == seen[name]:
                    (folder / name).unlink(missing_ok=True)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        pass  # the last steps of the removal below were left, or it is none of ours
    remove(whole)


def _put_back(old: Path) -> None:
    """A folder that was aside while another took its place, back where none did."""
    for kept in old.iterdir():
        if not os.path.lexists(old.parent / kept.name):
            kept.rename(old.parent / kept.name)
    remove(old)


def _abandoned(path: Path) -> bool:
    """Whether nobody holds a part's lock."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its writer lives, or nobody can tell
        return False
    finally:
        os.close(lock)
    return True


def _lock(file: int, how: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, how)


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}")
