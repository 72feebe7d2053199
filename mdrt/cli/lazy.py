"""A group of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, what `--help` says of it unseen, and the extra it needs, if any."""

    module: str
    attribute: str
    help: str
    extra: str = ""


class LazyGroup(click.Group):
    """Lists its commands without importing them: `--help` is quick, and works without extras."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self.lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return None
        found = self.lazy[name]
        try:
            command: click.Command = getattr(importlib.import_module(found.module), found.attribute)
        except ModuleNotFoundError as error:
            if (error.name or "mdrt").startswith("mdrt") or not found.extra:
                raise
            raise click.ClickException(
                f"{context.command_path} {name} needs {error.name}; run "
                f"`pip install '.[{found.extra}]'` in mdrt's own folder"
            ) from error
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.lazy[name].help) for name in self.list_commands(context)]
            )
