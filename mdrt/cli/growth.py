"""`mdrt bench growth`: what grows with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..benchmarks.speed.growth import AXES, draw_growth, grow
from .bench import count_option, show, size_option, task_of, write
from .groups import Command, group, option
from .options import engine_option, json_option, out_option, threads_option


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    name = "N,N,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(",") if part.strip())
        except ValueError:
            numbers = (0,)
        if any(number < 1 for number in numbers):
            self.fail(f"{value!r}: expected positive numbers, as in 1,19,171", param, ctx)
        return numbers


@click.command("growth", cls=Command, extra="bench")
@group("From where", engine_option, size_option, count_option, threads_option)
@group(
    "Where to, one at a time",
    option("--classes-at", type=_Numbers(), default="1,19,171,847", show_default=True),
    option("--sizes-at", type=_Numbers(), default="256,512,1024,2048", show_default=True),
    option("--images-at", type=_Numbers(), default="1,4,16", show_default=True),
)
@group("Results", out_option("growth.json and growth.png"), json_option)
def growth_command(
    engine: Path | None,
    size: int | None,
    count: int,
    threads: int | None,
    classes_at: tuple[int, ...],
    sizes_at: tuple[int, ...],
    images_at: tuple[int, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Time and memory against classes, picture size and the number of pictures, one at a time."""
    task = task_of(engine, size, count, threads=threads)
    points = {"classes": classes_at, "size": sizes_at, "images": images_at}
    with Console(stderr=True).status("measuring") as status:
        report = grow(task, points, status.update)
    show(report, [growth_table(report)], as_json)
    write(report, lambda file: draw_growth(report, file), out, "growth")


def growth_table(report: dict[str, Any]) -> Table:
    """One row a point."""
    task = report["task"]
    title = f"growth from {len(task['classes'])} classes, {task['size']}², one picture"
    table = Table(title=title)
    for name in ("", "", "networks, s", "after them, s", "share", "peak memory"):
        table.add_column(name, justify="right" if table.columns else "left")
    for axis, found in report["axes"].items():
        for point in found:
            table.add_row(
                AXES[axis] if point is found[0] else "",
                str(point["value"]),
                f"{point['network_s']:.2f}",
                f"{point['after_s']:.3f}",
                f"{point['after_share']:.1%}",
                f"{point['peak_bytes'] / 1e9:.2f} GB",
            )
    return table
