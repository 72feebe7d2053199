"""`mdrt bench latency`: mdrt beside other ways to run the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..benchmarks.speed.chart import draw_race, seconds
from ..benchmarks.speed.contenders import CONTENDERS, PYTORCH
from ..benchmarks.speed.latency import race
from ..benchmarks.speed.task import STAGES
from ..runtime.bundle import contract
from ..runtime.bundle.loading import load_bundle
from ..runtime.errors import MdrtError
from .bench import count_option, pipeline_option, show, size_option, task_of, vae_option, write
from .groups import Command, experts, group, option
from .options import engine_option, json_option, out_option, threads_option

Report = dict[str, Any]


@click.command("latency", cls=Command, extra="bench")
@group(
    "What",
    engine_option,
    size_option,
    count_option,
    option("--images", type=click.IntRange(min=1), default=3, show_default=True),
)
@group(
    "Beside what",
    option(
        "--against",
        default="onnxruntime",
        show_default=True,
        metavar="NAMES",
        help=f"Comma-separated, of {', '.join(name for name in CONTENDERS if name != 'mdrt')}, "
        "or other bundles' directories; none for mdrt alone.",
    ),
    pipeline_option(),
    vae_option,
)
@group("Results", out_option("latency.json and latency.png"), json_option)
@experts(
    option("--warmup", type=click.IntRange(min=0), default=1, show_default=True),
    option(
        "--rounds",
        type=click.IntRange(min=1),
        default=2,
        show_default=True,
        help="Every contender in turn, in fresh processes, this many times.",
    ),
    threads_option,
)
def latency_command(
    engine: Path | None,
    size: int | None,
    count: int,
    images: int,
    against: str,
    pipeline: Path | None,
    vae: Path | None,
    out: Path | None,
    as_json: bool,
    warmup: int,
    rounds: int,
    threads: int | None,
) -> None:
    """Time mdrt and other runtimes on the same pictures, stage by stage."""
    others = [name.strip() for name in against.split(",") if name.strip() not in ("", "none")]
    for name in others:
        if name not in CONTENDERS and not Path(name, contract.MANIFEST).is_file():
            raise click.UsageError(
                f"--against {name}: choose of {', '.join(CONTENDERS)}, or name a bundle's directory"
            )
        if name in PYTORCH and pipeline is None:
            raise click.UsageError(f"--against {name} needs --pipeline, the weights PyTorch reads")
    contenders = list(dict.fromkeys(["mdrt", *others]))
    task = task_of(engine, size, count, threads=threads, pipeline=pipeline, vae=vae)
    from ..benchmarks.speed import work

    errors = Console(stderr=True)
    with errors.status("measuring") as status:
        status.update("the machine's own limits")
        peaks = work.peaks(threads)
        read = work.reading(load_bundle(task.bundle, verify=False))
        status.update("counting multiply-adds")
        counts = work.multiply_adds(load_bundle(task.bundle, verify=False), task.size)
        try:
            report = race(
                task, contenders, rounds=rounds, pictures=images, warmup=warmup, say=status.update
            )
        except RuntimeError as error:
            raise MdrtError(str(error)) from error
    for reason in report["failed"].values():
        errors.print(f"left out: {reason}", highlight=False, markup=False)
    report |= {"peaks": peaks, "multiply_adds": counts, "read_s": read}
    show(report, [_race_table(report), _work_table(report)], as_json)
    write(report, lambda file: draw_race(report, file), out, "latency")


def _race_table(report: Report) -> Table:
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
            table.add_row(stage, *("" if v is None else seconds(v) for v in values))
    table.add_section()
    rows: dict[str, Callable[[Report], str]] = {
        "whole, p50": lambda r: seconds(r["p50_s"]),
        "whole, p95": lambda r: seconds(r["p95_s"]),
        f"times {first}": lambda r: f"{r['p50_s'] / results[first]['p50_s']:.2f}×",
        "loading": lambda r: seconds(r["load_s"]),
        "start to first": lambda r: "" if r["first_s"] is None else seconds(r["first_s"]),
        "peak memory": lambda r: f"{r['peak_bytes'] / 1e9:.2f} GB",
        f"labels as {first}": lambda r: f"{r[f'agreement with {first}']:.2%}",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(result) for result in results.values()))
    return table


def _work_table(report: Report) -> Table:
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


def _conditions(report: Report) -> str:
    """What the figures are worth nothing without."""
    machine, versions = report["machine"], report["versions"]
    threads = report["task"]["threads"] or "every core"
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, load {machine['load']:.1f} before; "
        f"threads: {threads}; reading the weights: {seconds(report['read_s'])} s\n"
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )
