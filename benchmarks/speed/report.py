"""A race's report for people: a table, and a bar chart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Final

from rich.table import Table

from .contenders import PYTORCH
from .task import STAGES

Report = dict[str, Any]

_COLOURS: Final = {
    "vae": "#4c78a8", "unet": "#f58518", "decode": "#b279a2", "text": "#54a24b",
    "attention": "#e45756", "prototypes": "#72b7b2", "assign": "#eeca3b", "image": "#9d755d",
    "download": "#ff9da6", "output": "#bab0ac",
}  # fmt: skip


def race_table(report: Report) -> Table:
    """Contenders as columns: seconds a stage, the whole, its ratio to the first, memory."""
    results = report["contenders"]
    first = next(iter(results))
    task = report["task"]
    title = f"{task['size']}², {len(task['classes'])} classes, seconds (warm medians)"
    table = Table(
        "", *results, title=title, title_justify="left", caption=_conditions(report),
        caption_justify="left",
    )  # fmt: skip
    for stage in STAGES:
        values = [result["stages_s"].get(stage) for result in results.values()]
        if any(value is not None for value in values):
            table.add_row(stage, *("" if v is None else _seconds(v) for v in values))
    table.add_section()
    rows: dict[str, Callable[[Report], str]] = {
        "whole, p50": lambda r: _seconds(r["p50_s"]),
        "whole, p95": lambda r: _seconds(r["p95_s"]),
        f"times {first}": lambda r: f"{r['p50_s'] / results[first]['p50_s']:.2f}×",
        "loading": lambda r: _seconds(r["load_s"]),
        "start to first": lambda r: "" if r["first_s"] is None else _seconds(r["first_s"]),
        "peak memory": lambda r: f"{r['peak_bytes'] / 1e9:.2f} GB",
        f"labels as {first}": lambda r: f"{r[f'agreement with {first}']:.2%}",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(result) for result in results.values()))
    return table


def work_table(report: Report) -> Table:
    """Multiply-adds of the networks, what each contender makes of them, and the limit.

    The PyTorch contenders are left out: their networks are whole, or run several times.
    """
    peak = report["peaks"]["product"]
    results = {k: found for k, found in report["contenders"].items() if k not in PYTORCH}
    title = (
        f"operations a second in units of 10⁹; a matrix product reaches {peak / 1e9:.0f}, "
        f"a direct convolution {report['peaks']['convolution'] / 1e9:.0f}"
    )
    table = Table("stage", "10⁹ multiply-adds", *results, title=title, title_justify="left")
    for stage in ("vae", "unet"):
        count = report["multiply_adds"][stage]
        cells = []
        for result in results.values():
            rate = 2 * count / result["stages_s"][stage]
            cells.append(f"{rate / 1e9:.0f} ({rate / peak:.0%})")
        table.add_row(stage, f"{count / 1e9:.0f}", *cells)
    return table


def draw_race(report: Report, file: BinaryIO) -> None:
    """Stacked bars, one a contender, a colour a stage; a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = report["contenders"]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(results) + 1.6))
    left = [0.0] * len(results)
    for stage in STAGES:
        values = [result["stages_s"].get(stage, 0.0) for result in results.values()]
        if any(values):
            axes.barh(list(results), values, left=left, label=stage, color=_COLOURS[stage])
            left = [a + b for a, b in zip(left, values, strict=True)]
    for row, (total, result) in enumerate(zip(left, results.values(), strict=True)):
        axes.text(total, row, f" {_seconds(result['p50_s'])} s", va="center")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"seconds a picture, {report['task']['size']}², warm medians")
    axes.set_xlim(right=max(left) * 1.12)
    axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def _conditions(report: Report) -> str:
    """What the figures are worth nothing without."""
    machine, versions = report["machine"], report["versions"]
    threads = report["task"]["threads"] or "every core"
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, load {machine['load']:.1f} before; "
        f"threads: {threads}; reading the weights: {_seconds(report['read_s'])} s\n"
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
