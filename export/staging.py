"""Write a directory aside and rename it: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from ..runtime.bundle.contract import MANIFEST
from ..runtime.disk.atomic import (
    aside_folder,
    locked,
    recover,
    remove,
    settle_folder,
    settle_tree,
)
from ..runtime.disk.folders import exchange, rename_new
from ..runtime.errors import ExportError

_Identity = tuple[int, ...]


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a directory that becomes `target` when the block ends without an error.

    It stands beside `target`, so that the rename is atomic; any exception,
    Ctrl-C included, removes it, and what a kill left the next export. What
    stands at `target` is looked at again at the very end: with `overwrite` the
    bundle that stood there at first is replaced, and nothing else ever.

    Raises:
        ExportError: `target` exists and may not be replaced, is no bundle, has
            appeared or changed meanwhile, or its folder cannot be written.
    """
    target = target.absolute()
    replaced = _identity(target)
    if replaced is not None:
        if not overwrite:
            raise ExportError(
                f"{target} exists; give another folder, or allow it to be overwritten",
                out=...,
                overwrite=True,
            )
        if not (target / MANIFEST).is_file():
            raise ExportError(
                f"{target} exists and is no bundle, and only bundles are overwritten; give another "
                "folder",
                out=...,
            )
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            recover(target.parent)
            aside = stack.enter_context(aside_folder(target.parent))
        except OSError as error:
            raise ExportError(f"{target.parent} cannot be written: {error.strerror}") from error
        try:
            yield aside
            settle_tree(aside)
            with locked(target.parent):
                if replaced is None or _identity(target) is None:
                    _place(aside, target)
                else:
                    _replace(aside, target, replaced)
        except OSError as error:
            raise ExportError(
                f"{target} cannot be written: {error.strerror or error}"
                + (f" ({error.filename})" if error.filename else "")
            ) from error


def _place(aside: Path, target: Path) -> None:
    """Give a directory a name that nothing has."""
    try:
        rename_new(aside, target)
        settle_folder(target.parent)
    except FileExistsError:
        raise ExportError(
            f"{target} appeared while its bundle was written, and is kept; give another folder",
            out=...,
        ) from None


def _replace(aside: Path, target: Path, replaced: _Identity) -> None:
    """Swap in the new bundle for the one that was there at first, which is `aside` then.

    What comes out is looked at: another bundle, put there since, goes back.
    """
    changed = ExportError(
        f"{target} is not the bundle that was to be replaced: it changed meanwhile, and is kept; "
        "give another folder, or run again",
        out=...,
    )
    if _identity(target) != replaced:
        raise changed
    exchange(aside, target)
    if _identity(aside) != replaced:
        try:
            exchange(aside, target)
        except OSError:
            aside.rename(target.with_name(f"{target.name}-{uuid4().hex}"))  # not ours to remove
        raise changed
    settle_folder(target.parent)
    remove(aside)


def _identity(path: Path) -> _Identity | None:
    """Which directory, and which bundle in it: what was put in its place since differs.

    An inode's number may be used again, so the manifest's time of writing counts too.
    """
    folder = _folder(path)
    if folder is None:
        return None
    try:
        manifest = (path / MANIFEST).stat()
    except OSError:
        return folder
    return *folder, manifest.st_ino, manifest.st_mtime_ns


def _folder(path: Path) -> _Identity | None:
    """Which directory or link; None where there is nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
