"""What `mdrt eval compare` reads and writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmarks.accuracy.compare import (
    ComparedTable,
    Contender,
    as_plain,
    compare,
    markdown,
)
from ..runtime.bundle.loading import load_bundle
from ..runtime.disk.atomic import write_atomically
from ..runtime.errors import DatasetError
from ..runtime.segmenter import EMBEDDED
from .progress import needs_ascii
from .tables import print_whole


def bundle_folders(engines: Sequence[Path]) -> dict[str, Path | None]:
    """The bundles by the folder that each one's results go to: its name and its digest's start."""
    found: dict[str, Path | None] = {}
    for engine in engines or (None,):
        bundle = load_bundle(engine or EMBEDDED, verify=False)  # who runs it verifies
        found.setdefault(f"{bundle.path.name}-{bundle.manifest.sha256[:6]}", engine)
    return found


def show_comparison(
    contenders: Sequence[Contender], images: Collection[str], out: Path, as_json: bool
) -> None:
    """Write the reports, and print one.

    Raises:
        DatasetError: there is nothing to report.
    """
    tables = compare(contenders, images)
    if not tables:
        raise DatasetError("no picture was scored; see the messages above")
    meta = contenders[0].store.meta
    problems = {c.bundle: c.store.problems(images) for c in contenders}
    values = {
        "dataset": meta["dataset"],
        "split": meta["split"],
        "tables": as_plain(tables),
        "problems": problems,
    }
    text, page = json.dumps(values, indent=2, ensure_ascii=False), markdown(tables)
    write_atomically(out / "report.json", lambda file: file.write(text.encode()))
    write_atomically(out / "report.md", lambda file: file.write(page.encode()))
    if as_json:
        click.echo(json.dumps(values, indent=2, ensure_ascii=needs_ascii()))
        return
    console = Console()
    print_whole(console, *map(comparison_table, tables))
    wrote = f"wrote {out / 'report.md'}, {out / 'report.json'}"
    console.print(wrote, highlight=False, soft_wrap=True)


def comparison_table(found: ComparedTable) -> Table:
    """One protocol's, for people."""
    pictures = found.rows[0].score.images
    table = Table(title=f"protocol {found.protocol}, {pictures} picture{'s' * (pictures != 1)}")
    head, *rows = found.cells
    for name in head:
        table.add_column(name, justify="left" if name in ("bundle", "head") else "right")
    for cells in rows:
        table.add_row(*map(Text, cells))
    table.caption = "\n".join(found.captions)
    return table
