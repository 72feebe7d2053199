"""A group of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, and what `--help` says of it unseen."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """Lists its commands without importing them, in the order given: `--help` is quick."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return None
        found = self.lazy[name]
        command: click.Command = getattr(importlib.import_module(found.module), found.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with what may be meant by a name that is no command's."""
        name = args[0]
        if name not in self.lazy and not name.startswith("-"):
            nearest = get_close_matches(name, list(self.lazy), 1)
            if "segment" in self.lazy and os.path.lexists(name):
                ctx.fail(f"no command {name!r}; did you mean `mdrt segment {name}`?")
            if nearest:
                ctx.fail(f"no command {name!r}; did you mean {nearest[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.lazy[name].help) for name in self.list_commands(context)]
            )
