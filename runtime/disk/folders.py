"""Folders that come into place whole: a rename that replaces nothing, and an exchange of two.

`os.rename` replaces an empty folder without a word, and cannot replace a full one. Linux can do
both in one step where the file system can (`renameat2`); elsewhere they are composed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from .atomic import OLD, PREFIX

_HERE: Final = -100  # AT_FDCWD: a relative path is the working folder's
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_CANNOT: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""A kernel, a file system or a sandbox without it; who may not rename at all is told next."""


def rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that nothing has.

    Raises:
        FileExistsError: something stands there, be it an empty folder or a dangling link.
        OSError: the disk refused.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    target.mkdir()  # the name is ours, or this raises; renaming replaces an empty folder
    try:
        source.rename(target)
    except BaseException as error:
        with suppress(OSError):
            target.rmdir()  # not if another has put something in
        if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def exchange(one: Path, other: Path) -> None:
    """Let two folders of one file system, both there, change places.

    In one step where the system can: then there is no moment without either. Elsewhere `other` is
    aside for a moment, and back in its place if the step after that fails or, where the process
    ended between the two, after `atomic.recover`.

    Raises:
        OSError: one of them is not there, or the disk refused.
    """
    if _renameat2(one, other, _EXCHANGE):
        return
    between = Path(mkdtemp(prefix=PREFIX, suffix=OLD, dir=other.parent))
    try:
        kept = between / other.name
        other.rename(kept)
        try:
            one.rename(other)
        except BaseException:
            kept.rename(other)
            raise
        kept.rename(one)
    finally:
        between.rmdir()


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename in one step; False where that cannot be done here.

    Raises:
        OSError: it can, and was refused.
    """
    call = _system_call()
    if call is None:
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _system_call() -> Any:
    """glibc's and musl's `renameat2`; None on other systems."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        path, number = ctypes.c_char_p, ctypes.c_int
        call.argtypes = (number, path, number, path, ctypes.c_uint)
    return call
