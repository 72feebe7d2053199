"""A file beside its record: is it there, whole, and the one that was written."""

from __future__ import annotations

from pathlib import Path

from ..disk.hashes import remembered_sha256
from ..errors import BundleError
from .contract import FileRecord


def check_size(path: Path, record: FileRecord, remedy: str) -> None:
    """See that a file exists and is as long as its record says.

    Raises:
        BundleError: it is missing, or shorter or longer.
    """
    try:
        there, size = path.is_file(), path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        there, size = False, 0
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    if not there:
        raise BundleError(f"{path} is missing from the bundle; {remedy}")
    if size != record.bytes:
        raise BundleError(f"{path} has {size} bytes, expected {record.bytes}; {remedy}")


def check_hash(path: Path, record: FileRecord, remedy: str) -> None:
    """See that a file's content is its record's; a large one is read only if it changed.

    Raises:
        BundleError: another content, or it cannot be read.
    """
    try:
        found = remembered_sha256(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    if found != record.sha256:
        raise BundleError(
            f"{path} has SHA-256 {found[:12]}…, expected {record.sha256[:12]}…: "
            f"it was changed after it was written; {remedy}"
        )
