"""Tables for people: as wide as a terminal is, and plain where they go into a file or a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table
from rich.text import Text

from ..runtime.pictures.render import percent
from .telling import shown

if TYPE_CHECKING:
    from ..export.proof import Row
    from ..runtime.bundle.plan import PlanRecord

UNBOUNDED: Final = 10_000
"""Columns of a file or a pipe, which has no width to keep to."""

_MISSING: Final = 20
"""Names without a pixel that a table has a row for."""

_GAP: Final = 2  # blanks between columns


def print_whole(console: Console, *tables: Table) -> None:
    """Print tables, nothing in them cut, an empty line between two.

    On a terminal text folds at blanks where a table would be wider; a word, a name or a number
    stays in one piece on any terminal that has room for the widest of every column. Elsewhere every
    row is a line, its columns aligned by blanks.

    Args:
        console: that they go to.
        tables: title and caption stand as lines above and below.
    """
    plain = not console.is_terminal
    if plain:
        console.width = UNBOUNDED
    for place, table in enumerate(tables):
        if place:
            console.print()
        title, caption = table.title, table.caption
        table.title = table.caption = table.box = None
        table.padding, table.pad_edge, table.header_style = (0, _GAP, 0, 0), False, "bold"
        _fit(console, table)
        if title:
            console.print(Text(str(title), "bold"))
        if plain:
            with console.capture() as printed:
                console.print(table)
            for line in printed.get().splitlines():
                console.out(line.rstrip(), highlight=False)
        else:
            console.print(table)
        if caption:
            console.print(Text(str(caption)))


def _fit(console: Console, table: Table) -> None:
    """Give every column its width: what it would like, and the widest less of it until all fit."""
    columns = table.columns
    widths, least = [], []
    for column in columns:
        head, cells = (
            measure_renderables(console, console.options, part)
            for part in ([column.header if table.show_header else ""], list(column.cells))
        )
        whole = cells.maximum if column.justify == "right" else cells.minimum
        widths.append(max(head.maximum, cells.maximum))
        least.append(max(head.minimum, whole))
        column.overflow = "fold"
    room = console.width - _GAP * (len(columns) - 1)
    while sum(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    for column, width in zip(columns, widths, strict=True):
        column.width = width


def picture_table(values: Mapping[str, Any]) -> Table:
    """A picture's record: the classes that are in it, the largest first, and those that are not."""
    title = Text(f"{shown(str(values['image']))}  {values['size'][1]}×{values['size'][0]}")
    table = Table(title=title, title_justify="left")
    for name in ("class", "share", "confidence"):
        table.add_column(name, justify="left" if name == "class" else "right")
    entries = sorted(values["classes"], key=lambda entry: -entry["share"])
    for entry in entries:
        if entry["pixels"]:
            cells = (percent(entry["share"]), f"{entry['confidence']:.3f}")
            table.add_row(Text(entry["name"]), *cells)
    if values["void"]:
        share = values["void"] / (values["size"][0] * values["size"][1])
        table.add_row(Text("none of these", "dim"), percent(share), "")
    missing = [entry["name"] for entry in entries if not entry["pixels"]]
    for name in missing[:_MISSING]:
        table.add_row(Text(name, "dim"), Text("not found", "dim"), "")
    if len(missing) > _MISSING:
        more = f"and {len(missing) - _MISSING} names more"
        table.add_row(Text(more, "dim"), Text("not found", "dim"), "")
    return table


def proof_table(rows: Sequence[Row]) -> Table:
    """An export's proof: tensor, shape of the largest case, error, what is allowed, verdict."""
    table = Table("graph", "tensor", "shape", "max error", "allowed", "")
    for row in rows:
        verdict = "[green]pass[/]" if row.passed else "[red]FAIL[/]"
        cells = (_graph(row.graph), row.tensor, _shape(max(row.shapes)))
        table.add_row(*cells, f"{row.error:.1e}", f"{row.tolerance:.0e}", verdict)
    notes = sorted({f"{row.graph}: {row.note}" for row in rows if row.note})
    table.caption = "\n".join(notes) or None
    return table


def engine_table(records: Mapping[str, PlanRecord]) -> Table:
    """One row an engine: what it was built from and for, its size and its time."""
    table = Table()
    for name in ("graph", "layers", "kernels", "fused", "MB", "seconds", "inputs at most"):
        text = name in ("graph", "inputs at most")
        table.add_column(name, justify="left" if text else "right")
    for graph, record in records.items():
        table.add_row(
            _graph(graph),
            f"{record.layers}",
            f"{record.kernels.count}",
            f"{record.kernels.fused}/{record.kernels.fused + record.kernels.split}",
            f"{record.plan.bytes / 1e6:.1f}",
            f"{record.seconds:.1f}",
            ", ".join(f"{name} {_shape(shape.max)}" for name, shape in record.shapes.items()),
        )
    record = next(iter(records.values()))
    profile = ", ".join(f"{name} {span}" for name, span in record.profile.items())
    table.caption = "\n".join(
        (
            "fused: attention layers that are one kernel, of all",
            f"{record.library} {record.library_version}, {record.precision}; {profile}",
            _proved(records),
        )
    )
    return table


def _proved(records: Mapping[str, PlanRecord]) -> str:
    """What the engines' proofs come to, in a line."""
    proofs = [record.proof for record in records.values()]
    if not proofs[0].gpu:
        return f"not proved, only built: {proofs[0].reason}"
    worst = max(proofs, key=lambda proof: proof.error / (proof.tolerance or 1))
    values = (
        f"within {worst.error:.1e} of ONNX Runtime (allowed {worst.tolerance:g})"
        if worst.tolerance
        else "all finite (ONNX Runtime has no bfloat16 to compare with)"
    )
    outputs = sum(proof.outputs for proof in proofs)
    return f"proved on {worst.gpu}: {outputs} outputs at the profile's ends, {values}"


def _graph(name: str) -> str:
    """A graph's file, or the tokenizer's, in a narrow column."""
    return Path(name).name.removesuffix(".onnx").removesuffix(".json")


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
