"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file aside and rename it: it is whole or not there.

    Raises:
        OutputError: the disk refused.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[BinaryIO], object]]) -> None:
    """Write files aside, each by its function, and rename them when all are whole.

    Raises:
        OutputError: the disk refused.
    """
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in writes}
    try:
        for path, aside in asides.items():
            with aside.open("wb") as file:
                writes[path](file)
        for path, aside in asides.items():
            aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)
