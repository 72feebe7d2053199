"""Commands whose `--help` is short: options in titled groups, those of experts in `--help-all`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import click

from ..runtime.errors import MdrtError
from .telling import DEBUG, note_command

EXPERTS: Final = "Experts"
"""The title of the options that `--help-all` alone shows."""

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

_ALL: Final = f"{__name__}.all"
_WIDTH: Final = 26  # of the column of names, where one is not wider alone


class Option(click.Option):
    """An option that stands under a title of its command's help; "" has none."""

    title = ""


option = partial(click.option, cls=Option)


def group(title: str, *options: Decorator) -> Callable[[Function], Function]:
    """Give a command `options`, made by `option`, in this order under a title of its help."""

    def decorate(command: Function) -> Function:
        for add in reversed(options):
            command = add(command)
            vars(command)["__click_params__"][-1].title = title
        return command

    return decorate


experts = partial(group, EXPERTS)


class Command(click.Command):
    """A command with such options, `--debug` and `--help-all`."""

    def __init__(
        self,
        *arguments: Any,
        gone: Mapping[str, str] | None = None,
        extra: str = "",
        **settings: Any,
    ) -> None:
        """As click's.

        Args:
            gone: options of earlier versions, and what says the same now.
            extra: of mdrt, that has the packages which the command imports while it runs; its help
                needs none of them.
        """
        super().__init__(*arguments, **settings)
        self.gone, self.extra = gone or {}, extra
        self.params += [_debug, _help_all]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in self.gone:
                raise
            now = self.gone[error.option_name]
            raise click.UsageError(f"{error.option_name} is now {now}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        note_command(ctx)
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "mdrt").startswith("mdrt"):
                raise
            raise MdrtError(
                f"{ctx.command_path} needs {error.name}, which is not installed; "
                f"run `pip install '.[{self.extra}]'` in mdrt's own folder"
            ) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and line is not None:
                sections.setdefault(getattr(parameter, "title", ""), []).append(line)
        if not ctx.meta.get(_ALL):
            sections.pop(EXPERTS, None)
        width = min(_WIDTH, max(len(names) for lines in sections.values() for names, _ in lines))
        untitled = sections.pop("", [])
        for title, lines in [*sections.items(), ("More" if sections else "Options", untitled)]:
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), text) for names, text in lines])


def _show_all(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.meta[_ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


_debug: Final = Option(["--debug"], **DEBUG)
_debug.title = EXPERTS
_help_all: Final = Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show this message with the options for experts.",
)
