"""SHA-256 of large files, remembered until they change.

Hashing Stable Diffusion's weights takes half as long as segmenting a picture. A file whose size,
inode and times of change are those it was last hashed with is not read again; a change of its
content cannot leave the time of change (ctime) as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import OutputError
from .atomic import recover, write_atomically

_CHUNK: Final = 1 << 20  # bytes hashed at a time
_REMEMBERED_ABOVE: Final = 1 << 26
"""Bytes. Smaller files are hashed faster than it takes to care."""
_MOST: Final = 256  # files remembered, the last ones
_SETTLED_NS: Final = 2_000_000_000
"""A file changed so shortly ago could change again within one tick of the file system's clock."""


def sha256(path: Path) -> str:
    """The hash of a file as it is now, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """The hash of a file, from the cache where the file is the one that was hashed.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    if stat.st_size < _REMEMBERED_ABOVE:
        return sha256(path)
    state, name, known = list(_state(stat)), str(path.resolve()), _read()
    entry = known.get(name)
    if isinstance(entry, dict) and entry.get("state") == state:
        return str(entry.get("sha256"))
    found = sha256(path)
    known.pop(name, None)
    if time.time_ns() - stat.st_ctime_ns < _SETTLED_NS:
        return found
    _write({**known, name: {"state": state, "sha256": found}})
    return found


def file_state(path: Path) -> tuple[int, ...]:
    """What differs as soon as a file's content does: size, inode, times of change.

    Raises:
        OSError: there is no such file.
    """
    return _state(path.stat())


def cache_folder() -> Path | None:
    """Where mdrt keeps what it can make again: `$XDG_CACHE_HOME/mdrt`, or `~/.cache/mdrt`. None
    for a user without a home, as in a container: then nothing is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "mdrt"
    except RuntimeError:  # no HOME, and no entry in the system's list of users
        return None


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _read() -> dict[str, object]:
    folder = cache_folder()
    if folder is None:
        return {}
    try:
        known = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, object]) -> None:
    """Keep the cache; where that cannot be done, files are hashed again next time."""
    folder = cache_folder()
    if folder is None:
        return
    text = json.dumps(dict(list(known.items())[-_MOST:]))
    with suppress(OSError, OutputError):
        folder.mkdir(parents=True, exist_ok=True)
        recover(folder)
        write_atomically(folder / "hashes.json", lambda file: file.write(text.encode()))
