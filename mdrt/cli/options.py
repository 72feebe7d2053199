"""Options that mean the same in every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..runtime.sessions.providers import PROVIDERS
from .groups import option

PATH: Any = click.Path(path_type=Path)
COUNT: Any = click.IntRange(min=1)
WORKERS: Any = click.IntRange(1, 64)  # of a server

engine_option = option(
    "-e",
    "--engine",
    type=PATH,
    help="A bundle directory, its unet.onnx or its unet.plan.  [default: the embedded model]",
)
provider_option = option(
    "--provider",
    metavar="|".join(PROVIDERS),
    help="Where ONNX Runtime runs the graphs of unet.onnx.  [default: cpu]",
)
threads_option = option(
    "--threads", type=COUNT, help="Threads of one operator.  [default: every core]"
)
head_option = option(
    "--head",
    metavar="NAME",
    help="The method; `mdrt heads` lists them.  [default: what the engine recommends for names, or "
    "for segments]",
)
json_option = option(
    "--json", "as_json", is_flag=True, help="Print JSON on standard output instead of tables."
)
profile_option = option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME=MIN:OPT:MAX",
    help="What may vary at run time: batch (rows), size (pixels a side); one number fixes it.  "
    "[default: batch=1:1:4, size=the model's own]",
)


def out_option(what: str, **settings: Any) -> Callable[[Any], Any]:
    """`-o`, `--out`: the folder for what a command writes.

    Args:
        what: it holds, for the help.
        settings: of the option, as its default.
    """
    return option("-o", "--out", type=PATH, help=f"Folder for {what}.", **settings)


def _settings(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> Mapping[str, str]:
    """What `--set NAME=VALUE` gave, by name.

    Raises:
        click.BadParameter: one has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise click.BadParameter(f"{text!r}; expected NAME=VALUE, as in --set refine=guided")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found


set_option = option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_settings,
    help="A setting of the head, as in --set timestep=200; may be repeated. `mdrt heads` lists "
    "them with what the bundle recommends, which is their default.",
)
