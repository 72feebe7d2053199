"""Embeddings of class lists, kept on the disk: a known list needs no text encoder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from numpy.lib.format import read_array, write_array
from numpy.typing import NDArray

from ..errors import OutputError
from .atomic import recover, write_atomically
from .hashes import cache_folder

_MOST_BYTES: Final = 1 << 28
"""Of all that is kept, before what was used longest ago goes: a thousand prompts of SD 1.x."""


def load_text(digest: str) -> NDArray[Any] | None:
    """The array that was kept under a digest; None if there is none, or it cannot be read."""
    path = _path(digest)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            found: NDArray[Any] = read_array(file, allow_pickle=False)
        os.utime(path)  # it was used now
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    return found


def keep_text(digest: str, values: NDArray[Any]) -> None:
    """Keep an array; where that cannot be done, it is computed again next time."""
    path = _path(digest)
    if path is None:
        return
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path.parent)
        write_atomically(path, lambda file: write_array(file, values, allow_pickle=False))
        _make_room(path.parent)


def _path(digest: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "texts" / f"{digest}.npy"


def _make_room(folder: Path) -> None:
    """Remove what was used longest ago, until the rest is small enough."""
    found = sorted(
        ((path.stat(), path) for path in folder.glob("*.npy")), key=lambda pair: -pair[0].st_mtime
    )
    total = 0
    for stat, path in found:
        total += stat.st_size
        if total > _MOST_BYTES:
            path.unlink(missing_ok=True)
