"""`mdrt heads`: what reads a look, what each needs and is good for, and its settings.

Everything is said by the heads' own declarations; docs/heads.md is what `--markdown` prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .groups import Command, option
from .options import engine_option, json_option
from .progress import needs_ascii
from .tables import UNBOUNDED, print_whole

if TYPE_CHECKING:
    from ..runtime.bundle.contract import Manifest
    from ..runtime.heads import Declared, Head

_PAGE: Final = """# Heads

*Written by `mdrt heads --markdown`, from the heads' own declarations.*

A head is one way to read the network's pass over a picture: `mdrt segment --head NAME`, and
`--set NAME=VALUE` for a setting of it. What is not set is as the bundle recommends (here: the
embedded model), else the default, which is the paper's or the published code's. In Python:
`segmenter(image, classes, head="maskdiffusion", map_power=2)`.
"""


@click.command("heads", cls=Command)
@click.argument("name", required=False)
@engine_option
@json_option
@option("--markdown", "as_markdown", is_flag=True, help="Print a page of them with all settings.")
def heads_command(name: str | None, engine: Path | None, as_json: bool, as_markdown: bool) -> None:
    """List the heads, the methods that `mdrt segment --head` takes; or the settings of head NAME.

    \b
    mdrt heads
    mdrt heads maskdiffusion
    mdrt heads spectral --engine sd15
    """
    from ..runtime.bundle.loading import load_bundle
    from ..runtime.heads import HEADS, find_head
    from ..runtime.heads.described import described
    from ..runtime.segmenter import EMBEDDED

    chosen = list(HEADS.values()) if name is None else [find_head(name)]
    manifest = load_bundle(EMBEDDED if engine is None else engine, verify=False).manifest
    if as_json:
        found = [described(head, manifest) for head in chosen]
        click.echo(json.dumps(found, indent=2, ensure_ascii=needs_ascii()))
    elif as_markdown:
        click.echo(_page(chosen, manifest), nl=False)
    else:
        _print(chosen, manifest, settings=name is not None)


def _declared(head: Head) -> tuple[Declared, ...]:
    from ..runtime.heads import declared

    return declared(head.options)


_HEADS: Final = ("head", "finds", "good for", "reads")
_SETTINGS: Final = ("setting", "range", "default", "recommended", "what it does")


def _heads_row(head: Head) -> list[str]:
    finds = "named classes" if head.kind == "named" else "unnamed segments"
    return [head.name, finds, head.good_for, ", ".join(tap.replace("_", "-") for tap in head.taps)]


def _settings_rows(head: Head, manifest: Manifest) -> Iterator[list[str]]:
    recommended: Mapping[str, Any] = manifest.recommended.get(head.name, {})
    for entry in _declared(head):
        best = entry.shown(recommended[entry.name]) if entry.name in recommended else ""
        yield [entry.name, entry.range, entry.shown(entry.default), best, entry.help]


def _print(heads: Sequence[Head], manifest: Manifest, settings: bool) -> None:
    """The table of heads; or of one, what it is and each of its settings."""
    console = Console()
    if settings:
        if not console.is_terminal:
            console.width = UNBOUNDED
        for head in heads:
            _print_head(console, head, manifest)
        return
    table = Table(*_HEADS, "offered", title=f"heads, and what {manifest.model_id} offers")
    for head in heads:
        lacking = head.lacks(manifest)
        table.add_row(*map(Text, [*_heads_row(head), f"lacks {lacking}" if lacking else "yes"]))
    table.caption = "mdrt heads NAME lists the settings of one"
    print_whole(console, table)


def _print_head(console: Console, head: Head, manifest: Manifest) -> None:
    """A head in paragraphs: sentences are too long for a table."""
    console.print(Text(f"{head.name}: {head.help}", "bold"))
    for label, text in zip(_HEADS[1:], _heads_row(head)[1:], strict=True):
        console.print(Text(f"{label}: {text}"))
    if lacking := head.lacks(manifest):
        console.print(Text(f"{manifest.model_id} lacks {lacking}"))
    for name, span, default, best, help in _settings_rows(head, manifest):
        here = f"; {manifest.model_id} recommends {best}" if best else ""
        console.print()
        console.print(Text.assemble((name, "bold"), f"  {span}; default {default}{here}"))
        console.print(Padding(Text(_sentence(help)), (0, 0, 0, 4), expand=False))


def _page(heads: Sequence[Head], manifest: Manifest) -> str:
    """A page of heads and their settings, in Markdown."""
    parts = [_PAGE, _markdown(_HEADS, map(_heads_row, heads))]
    for head in heads:
        parts.append(f"## {head.name}\n\n{_sentence(head.help)}\n")
        parts.append(_markdown(_SETTINGS, _settings_rows(head, manifest)))
    return "\n".join(parts)


def _markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
