"""Write a directory aside and rename it: whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from ..runtime.contract import MANIFEST
from ..runtime.errors import ExportError


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a directory that becomes `target` when the block ends without an error.

    It stands beside `target`, so that the rename is atomic; any exception,
    Ctrl-C included, removes it.

    Raises:
        ExportError: `target` exists and may not be replaced, is no bundle, or
            its folder cannot be written.
    """
    target = target.absolute()
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise ExportError(f"{target} exists; give another -o or --overwrite")
        if not (target / MANIFEST).is_file():
            raise ExportError(
                f"{target} exists and is no bundle; --overwrite replaces bundles only"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ExportError(f"{target.parent} cannot be written: {error.strerror}") from error
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        if target.exists():
            _replace(target, aside)
        else:
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(target: Path, aside: Path) -> None:
    """Swap in the new bundle; the old one is put back if that fails."""
    old = Path(mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        aside.rename(target)
    except BaseException:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """The process's file mode mask; `mkdtemp` ignores it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
