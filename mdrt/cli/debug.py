"""Errors seen whole: which option asks for it, and the line that tells of the option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_KEY: Final = f"{__name__}.asked"


def debug_option(command: Command) -> Command:
    """`--debug` for a command; before any command, or in the environment, it is for all."""

    def note(context: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked:
            context.meta[_KEY] = True  # all of a call's contexts share it

    option = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        envvar="MDRT_DEBUG",
        callback=note,
        help="Show where in the code an error comes from; MDRT_DEBUG=1 does the same.",
    )
    return option(command)


def debugging() -> bool:
    """Whether the command that runs was asked for it; in its own thread."""
    return bool(click.get_current_context().meta.get(_KEY))


def surprise(error: Exception) -> str:
    """The line for an error that is not the user's to fix, ours or a library's."""
    words = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{reason}; --debug or MDRT_DEBUG=1 shows where"
