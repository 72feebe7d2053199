"""`mdrt bench parity`: a bundle beside its pipeline in PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from .bench import count_option, pipeline_option, size_option, task_of, vae_option
from .groups import Command, group
from .options import engine_option, json_option
from .tables import print_whole, proof_table


@click.command("parity", cls=Command, extra="export,bench")
@group("What", engine_option, size_option, count_option)
@group("Beside what", pipeline_option(required=True), vae_option)
@group("Results", json_option)
def parity_command(
    engine: Path | None,
    size: int | None,
    count: int,
    pipeline: Path,
    vae: Path | None,
    as_json: bool,
) -> None:
    """Compare a bundle with its pipeline in PyTorch: every tensor, then every pixel's label."""
    from ..benchmarks.speed import parity

    task = task_of(engine, size, count, pipeline=pipeline, vae=vae)
    with Console(stderr=True).status("comparing") as status:
        rows = parity.tensors(task, status.update)
        agreements = parity.labels(task, status.update)
    if as_json:
        found = {
            "tensors": [asdict(row) | {"passed": row.passed} for row in rows],
            "labels": [asdict(agreement) for agreement in agreements],
        }
        click.echo(json.dumps(found, indent=2))
    else:
        table = Table("convolutions", "mode", "pixels with PyTorch's label")
        for agreement in agreements:
            table.add_row(agreement.graphs, agreement.mode, f"{agreement.share:.3%}")
        print_whole(Console(), proof_table(rows), table)
    if not all(row.passed for row in rows):
        raise click.ClickException("a tensor is beyond its tolerance")
