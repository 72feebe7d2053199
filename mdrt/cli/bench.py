"""`mdrt bench`: the measurements, and what their commands have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
from rich.console import Console
from rich.table import Table

from ..benchmarks.speed.task import Task, names
from ..runtime.bundle.loading import load_bundle
from ..runtime.disk.atomic import write_atomically
from ..runtime.disk.hashes import cache_folder
from ..runtime.errors import MdrtError
from ..runtime.segmenter import EMBEDDED
from .groups import option
from .lazy import Lazy, LazyGroup
from .tables import print_whole

BENCHES: Final = {
    "latency": Lazy("mdrt.cli.latency", "latency_command", "Stage by stage beside other runtimes."),
    "growth": Lazy(
        "mdrt.cli.growth", "growth_command", "Time and memory against classes, size and pictures."
    ),
    "parity": Lazy("mdrt.cli.parity", "parity_command", "A bundle beside its pipeline in PyTorch."),
    "serve": Lazy("mdrt.cli.load", "load_command", "A server under the load of many clients."),
}


@click.group("bench", cls=LazyGroup, lazy=BENCHES)
def bench_command() -> None:
    """Measure speed, memory and parity.

    \b
    mdrt bench latency
    mdrt bench latency -e sd15 --pipeline ./sd15-diffusers --against torch,mnn --out bench
    mdrt bench growth -e sd15 --sizes-at 512,1024 --out bench
    mdrt bench parity -e sd15 --pipeline ./sd15-diffusers
    mdrt bench serve --workers 2
    """


_FOLDER: Any = click.Path(path_type=Path, exists=True, file_okay=False)


def pipeline_option(**settings: Any) -> Callable[[Any], Any]:
    """`--pipeline`, required or not."""
    return option(
        "--pipeline",
        type=_FOLDER,
        help="The diffusers pipeline that the bundle was exported from.",
        **settings,
    )


vae_option = option(
    "--vae",
    type=_FOLDER,
    help="The VAE that the bundle was exported with.  [default: the pipeline's]",
)
size_option = option("--size", type=click.IntRange(min=8), help="Side of the square picture.")
count_option = option(
    "--classes",
    "count",
    type=click.IntRange(1, 1000),
    default=19,
    show_default=True,
    help="Number of classes: Cityscapes' 19, then invented ones.",
)


def task_of(
    engine: Path | None,
    size: int | None,
    count: int,
    *,
    threads: int | None = None,
    pipeline: Path | None = None,
    vae: Path | None = None,
) -> Task:
    """What is measured, by a command's options.

    Raises:
        click.UsageError: the bundle does not take pictures of this size.
        MdrtError: there is no place for what has to be converted.
    """
    bundle = load_bundle(engine or EMBEDDED, verify=False)
    manifest = bundle.manifest
    size = size or manifest.image.native_size
    if size % manifest.image.size_multiple:
        raise click.UsageError(
            f"--size {size}: expected a multiple of {manifest.image.size_multiple} for this bundle"
        )
    cache = cache_folder()
    if cache is None:
        raise MdrtError("there is no home to keep what is exported for it; set XDG_CACHE_HOME")
    source, encoder = (None if path is None else str(path.resolve()) for path in (pipeline, vae))
    folder = str(bundle.path.resolve())
    return Task(folder, source, size, names(count), str(cache / "bench"), threads, encoder)


def show(report: dict[str, Any], tables: Sequence[Table], as_json: bool) -> None:
    """Print a report, for machines or for people."""
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    print_whole(Console(), *tables)


def write(
    report: dict[str, Any], draw: Callable[[BinaryIO], object], folder: Path | None, name: str
) -> None:
    """Put a report and its chart into `folder`, if there is one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2) + "\n"
    write_atomically(folder / f"{name}.json", lambda file: file.write(text.encode()))
    write_atomically(folder / f"{name}.png", draw)
    click.echo(f"wrote {folder / name}.json and {folder / name}.png", err=True)
