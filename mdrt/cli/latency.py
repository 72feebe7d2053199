"""`mdrt bench latency`: mdrt beside other ways to run the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmarks.speed.chart import draw_race, seconds
from ..benchmarks.speed.contenders import CONTENDERS, PYTORCH
from ..benchmarks.speed.latency import race
from ..benchmarks.speed.questions import ask_all
from ..benchmarks.speed.task import STAGES
from ..runtime.bundle import contract
from ..runtime.bundle.loading import load_bundle
from ..runtime.errors import MdrtError
from .bench import count_option, pipeline_option, show, size_option, task_of, vae_option, write
from .groups import Command, experts, group, option
from .options import COUNT, engine_option, json_option, out_option, threads_option

Report = dict[str, Any]

_BESIDE: Final = 4  # contenders, of 13 characters each


@click.command("latency", cls=Command, extra="bench")
@group(
    "What",
    engine_option,
    size_option,
    count_option,
    option("--images", type=COUNT, default=3, show_default=True),
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
        type=COUNT,
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
    """Time mdrt and other runtimes on the same pictures, stage by stage.

    Then what else may be asked of mdrt: words that come late, other words on the same look, long
    lists, and segments without names from the decoder's features or the encoder's.
    """
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
        asked = ask_all(task, images, status.update)
    for reason in report["failed"].values():
        errors.print(f"left out: {reason}", highlight=False, markup=False)
    report |= {"peaks": peaks, "multiply_adds": counts, "read_s": read}
    report |= {"questions": asked}
    tables = [*race_tables(report), work_table(report), questions_table(report)]
    show(report, tables, as_json)
    write(report, lambda file: draw_race(report, file), out, "latency")


def race_tables(report: Report) -> list[Table]:
    """Contenders as columns: seconds a stage, the whole, its ratio to the first, memory.

    A table holds as many as 80 columns of text do.
    """
    names, task = list(report["contenders"]), report["task"]
    title = f"{task['size']}², {len(task['classes'])} classes, seconds (warm medians)"
    starts = range(0, len(names), _BESIDE)
    tables = [_race_table(report, names[start : start + _BESIDE]) for start in starts]
    tables[0].title, tables[-1].caption = title, _conditions(report)
    return tables


def _race_table(report: Report, names: Sequence[str]) -> Table:
    """The contenders of these names, beside the first of all."""
    results = {name: report["contenders"][name] for name in names}
    first = next(iter(report["contenders"]))
    whole = report["contenders"][first]["p50_s"]
    table = Table("")
    for name in names:
        table.add_column(Text(name), justify="right")
    for stage in STAGES:
        values = [result["stages_s"].get(stage) for result in results.values()]
        if any(value is not None for value in values):
            table.add_row(stage, *("" if v is None else seconds(v) for v in values))
    rows: dict[str, Callable[[Report], str]] = {
        "whole, p50": lambda r: seconds(r["p50_s"]),
        "whole, p95": lambda r: seconds(r["p95_s"]),
        f"times {first}": lambda r: f"{r['p50_s'] / whole:.2f}×",
        "loading": lambda r: seconds(r["load_s"]),
        "start to first": lambda r: "" if r["first_s"] is None else seconds(r["first_s"]),
        "peak memory": lambda r: f"{r['peak_bytes'] / 1e9:.2f} GB",
        f"labels as {first}": lambda r: f"{r[f'agreement with {first}']:.2%}",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(result) for result in results.values()))
    return table


def work_table(report: Report) -> Table:
    """Operations a second that each contender reaches in the networks, beside the limit.

    The PyTorch contenders are left out: their networks are whole, or run several times.
    """
    peak = report["peaks"]["product"]
    results = {k: found for k, found in report["contenders"].items() if k not in PYTORCH}
    counts = {stage: report["multiply_adds"][stage] for stage in ("vae", "unet")}
    table = Table(
        title="10⁹ operations a second",
        caption=f"a matrix product reaches {peak / 1e9:.0f}, "
        f"a direct convolution {report['peaks']['convolution'] / 1e9:.0f}",
    )
    for name in ("", *counts):
        table.add_column(name, justify="right" if name else "left")
    for name, result in results.items():
        rates = [2 * count / result["stages_s"][stage] for stage, count in counts.items()]
        table.add_row(Text(name), *(f"{rate / 1e9:.0f} ({rate / peak:.0%})" for rate in rates))
    table.add_row("10⁹ multiply-adds", *(f"{count / 1e9:.0f}" for count in counts.values()))
    return table


def questions_table(report: Report) -> Table:
    """Questions as rows: seconds of the stages that tell them apart, and of all."""
    asked, first = report["questions"], next(iter(report["questions"]))
    shown = [
        stage
        for stage in ("text", "vae", "unet", "attention", "segments", "prototypes", "assign")
        if any(stage in result["stages_s"] for result in asked.values())
    ]
    table = Table("", title="What else may be asked, seconds (words are late)")
    for name in (*shown, "whole", "times"):
        table.add_column(name, justify="right")
    for name, result in asked.items():
        stages = (result["stages_s"].get(stage) for stage in shown)
        cells = ("" if value is None else seconds(value) for value in stages)
        whole = result["p50_s"]
        ratio = whole / asked[first]["p50_s"]
        table.add_row(Text(name), *cells, seconds(whole), f"{ratio:.2f}")
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
