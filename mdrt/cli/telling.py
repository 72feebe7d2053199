"""Errors as the command line tells them: one line, with the options that help; or seen whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from ..runtime.errors import MdrtError

_DEBUG: Final = f"{__name__}.debug"
_COMMAND: Final = f"{__name__}.command"


def note_debug(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.meta[_DEBUG] = True  # all of a call's contexts share it


DEBUG: Final[Mapping[str, Any]] = {
    "is_flag": True,
    "expose_value": False,
    "envvar": "MDRT_DEBUG",
    "callback": note_debug,
    "help": "Show where in the code an error comes from; MDRT_DEBUG=1 does the same.",
}
"""`--debug` of a command; before any command, or in the environment, it is for all."""


def note_command(context: click.Context) -> None:
    """Remember which command runs, for what is told of its errors."""
    context.meta[_COMMAND] = context.command


@dataclass(frozen=True)
class Telling:
    """How one call tells of its errors.

    Attributes:
        command: what runs; errors name its options.
        whole: whether to show where in the code they come from.
    """

    command: click.Command
    whole: bool

    @classmethod
    def of_call(cls) -> Telling:
        """Of the call that runs in this thread."""
        context = click.get_current_context()
        whole = bool(context.meta.get(_DEBUG))
        return cls(context.meta.get(_COMMAND, context.command), whole)

    def line(self, error: Exception, where: str = "") -> str:
        """The line for an error.

        Args:
            where: put before what is not the user's to fix, ours or a library's.
        """
        return shown(self._line(error, where))

    def _line(self, error: Exception, where: str) -> str:
        if isinstance(error, MdrtError):
            flags = self._flags(error.remedy)
            return f"{error} ({' or '.join(flags)})" if flags else str(error)
        if isinstance(error, OSError) and not where:
            path = f"{error.filename}: " if error.filename else ""
            return f"{path}{error.strerror or error}"
        words = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return f"{where}{reason}; --debug or MDRT_DEBUG=1 shows where"

    def _flags(self, remedy: Mapping[str, object]) -> list[str]:
        """The options of the command that say the same as arguments in Python."""
        options = {o.name: o for o in self.command.params if isinstance(o, click.Option)}
        return [_flag(options[name], value) for name, value in remedy.items() if name in options]


def shown(text: str) -> str:
    """Text as a terminal may have it: what would steer it, as names of files can, is escaped."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def _flag(option: click.Option, value: object) -> str:
    if value is False:
        return option.secondary_opts[-1]
    name = option.opts[-1]
    return name if value is True or value is ... else f"{name} {value}"
