"""The tables of docs/notes/device.md: `python -m mdrt.benchmarks.lab device`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ....kernels.cuda.module import NAMES, source
from .compiler import ARCHITECTURES, Compile, find_compiler, usages
from .counts import GPUS, Stage, after_the_networks
from .layers import networks, unet

MARK: Final = "<!-- below: python -m mdrt.benchmarks.lab device --write docs/notes/device.md -->\n"


def work_table(networks: list[Stage], after: list[Stage], beside: Stage) -> str:
    """Operations, bytes and floors of every stage, as Markdown; `beside` is in no sum."""
    total, last = (
        Stage(name, tuple(operation for stage in part for operation in stage.operations))
        for name, part in [("**together**", [*networks, *after]), ("**after the networks**", after)]
    )
    head = " | ".join(f"floor, µs, {gpu.name}" for gpu in GPUS)
    shares = " | ".join(f"{gpu.floor(last) / gpu.floor(total):.2%}" for gpu in GPUS)
    return "\n".join(
        [
            f"| stage | operations | GFLOP | MB moved | {head} |",
            "|---|---|---|---|" + "---|" * len(GPUS),
            *(_work_row(stage) for stage in [*networks, *after, total, last]),
            f"| share after the networks | | {last.flops / total.flops:.2%} "
            f"| {last.moved / total.moved:.2%} | {shares} |",
            _work_row(beside),
            "",
        ]
    )


def _work_row(stage: Stage) -> str:
    floors = " | ".join(f"{gpu.floor(stage) * 1e6:,.1f}" for gpu in GPUS)
    return (
        f"| {stage.name} | {len(stage.operations)} | {stage.flops / 1e9:,.3f} "
        f"| {stage.moved / 1e6:,.1f} | {floors} |"
    )


def kernel_table(version: str, compile_source: Compile) -> str:
    """Registers and spills of every kernel on every architecture, as Markdown."""
    columns = [
        [usage for name in NAMES for usage in usages(compile_source(source(name), architecture))]
        for architecture in ARCHITECTURES
    ]
    rows = [
        f"| `{row[0].kernel}` | {max(usage.shared for usage in row):,} | "
        + " | ".join(f"{usage.registers} / {usage.spills}" for usage in row)
        + " |"
        for row in zip(*columns, strict=True)
    ]
    return "\n".join(
        [
            f"Compiled by {version}: registers a thread / bytes spilled.",
            "",
            "| kernel | shared bytes a block | "
            + " | ".join(f"sm_{architecture}" for architecture in ARCHITECTURES)
            + " |",
            "|---|---|" + "---|" * len(ARCHITECTURES),
            *rows,
            "",
        ]
    )


@click.command()
@click.option(
    "--write",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the tables into this file, in the place of those below its mark.",
)
def main(write: Path | None) -> None:
    """Count the GPU path's work and compile its kernels; no GPU needed."""
    compiler = find_compiler()
    if compiler is None:
        raise click.ClickException(
            "neither NVRTC nor nvcc is here; run `pip install nvidia-cuda-nvrtc`"
        )
    work = work_table(networks(), after_the_networks(), unet(whole=True))
    kernels = kernel_table(*compiler)
    tables = f"\n## Work\n\n{work}\n## Kernels\n\n{kernels}"
    if write is None:
        click.echo(tables)
        return
    text, mark, _ = write.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise click.ClickException(f"{write} lacks the line {MARK.strip()}")
    write.write_text(text + mark + tables, encoding="utf-8")
