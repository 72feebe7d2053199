"""A library's exception about a user's model, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..runtime.errors import ExportError, MdrtError
from .quiet import quiet

_LONGEST: Final = 200  # characters of a reason; diffusers lists whole configurations


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Keep the libraries quiet inside, and say `what` is wrong where one raises.

    diffusers, transformers and torch check little: an impossible configuration fails wherever it
    is first used, with any exception.

    Raises:
        ExportError: anything but the project's own errors was raised inside.
    """
    try:
        with quiet():
            yield
    except MdrtError:
        raise
    except Exception as error:
        raise ExportError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an exception says, its white space folded, cut where it is long."""
    text = " ".join(str(error).split()) or "it gave no reason"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
