"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..export.proof import Row
    from ..runtime.bundle.plan import PlanRecord

_WIDTH: Final = 160  # columns, as wide as any table is


def print_whole(console: Console, table: Table) -> None:
    """Print a table with its names uncut: a file or a pipe has no width to keep to."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(table)


def picture_table(values: Mapping[str, Any]) -> Table:
    """A picture's record: the classes that are in it, the largest first."""
    title = Text(f"{values['image']}  {values['size'][1]}×{values['size'][0]}")
    table = Table(title=title, title_justify="left")
    for name in ("class", "share", "confidence"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for entry in sorted(values["classes"], key=lambda entry: -entry["share"]):
        if entry["pixels"]:
            cells = (f"{entry['share']:.1%}", f"{entry['confidence']:.3f}")
            table.add_row(Text(entry["name"]), *cells)
    return table


def proof_table(rows: Sequence[Row]) -> Table:
    """An export's proof: tensor, shape of the largest case, error, tolerance, verdict."""
    table = Table("graph", "tensor", "shape", "max error", "tolerance", "verdict")
    for row in rows:
        shape = _shape(max(row.shapes))
        verdict = "[green]pass[/]" if row.passed else "[red]FAIL[/]"
        cells = (row.graph, row.tensor, shape, f"{row.error:.1e}", f"{row.tolerance:.0e}")
        table.add_row(*cells, verdict)
    notes = sorted({f"{row.graph}: {row.note}" for row in rows if row.note})
    table.caption = "\n".join(notes) or None
    return table


def engine_table(records: Mapping[str, PlanRecord]) -> Table:
    """One row an engine: what it was built from and for, its size and its time."""
    table = Table(
        "graph", "precision", "layers", "kernels", "attention", "MB", "seconds", "inputs at most"
    )
    for graph, record in records.items():
        shapes = (f"{name} {_shape(shape.max)}" for name, shape in record.shapes.items())
        table.add_row(
            graph,
            record.precision,
            f"{record.layers}",
            f"{record.kernels.count}",
            f"{record.kernels.fused} fused, {record.kernels.split} split",
            f"{record.plan.bytes / 1e6:.1f}",
            f"{record.seconds:.1f}",
            "\n".join(shapes),
        )
    record = next(iter(records.values()))
    profile = ", ".join(f"{name} {span}" for name, span in record.profile.items())
    table.caption = f"{record.library} {record.library_version}; {profile}\n{_proved(records)}"
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


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
