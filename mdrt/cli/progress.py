"""What a command shows while it runs: bars, a line, warnings."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..runtime.pictures.output import printable
from .telling import shown


def progress_bar(console: Console, quiet: bool = False) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,  # an empty line is all that a log would get of it
    )


def tell_bars(bars: Progress) -> Callable[[str, int, int], None]:
    """Told what is gone through, how much of it is done, and of how much: a bar for each."""
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    return tell


class PhaseBars:
    """A bar for each phase of a build, while it is under way: see `export.engines.monitor`."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, name: str, steps: int | None) -> None:
        self._tasks[name] = self._bars.add_task(name, total=steps)

    def step(self, name: str, done: int) -> None:
        self._bars.update(self._tasks[name], completed=done)

    def end(self, name: str) -> None:
        self._bars.remove_task(self._tasks.pop(name))


def needs_ascii() -> bool:
    """Whether standard output lacks characters, so that JSON has to spell them."""
    return (sys.stdout.encoding or "").lower().replace("-", "") not in ("utf8", "utf16", "utf32")


def say(console: Console, kind: str, text: str) -> None:
    """A warning or an error: one line that begins as click's do; names in it are never markup."""
    style = "red" if kind == "error" else "yellow"
    console.print(
        Text(f"{kind.capitalize()}: ", style).append(shown(printable(text)), "default"),
        soft_wrap=True,
    )
