"""`mdrt bench latency|growth|parity`: beside other ways to run the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.table import Table

from ..benchmarks.speed.contenders import CONTENDERS, PYTORCH
from ..benchmarks.speed.task import Task, names
from ..runtime.bundle import contract
from ..runtime.bundle.loading import load_bundle
from ..runtime.disk.atomic import write_atomically
from ..runtime.disk.hashes import cache_folder
from ..runtime.errors import MdrtError
from ..runtime.segmenter import EMBEDDED

_ENGINE = click.option(
    "-e",
    "--engine",
    type=click.Path(path_type=Path),
    default=EMBEDDED,
    help="A bundle directory or its unet.onnx.  [default: the embedded model]",
)
_PIPELINE = click.option(
    "--pipeline",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The diffusers pipeline that the bundle was exported from.",
)
_VAE = click.option(
    "--vae",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The VAE that the bundle was exported with.  [default: the pipeline's]",
)
_SIZE = click.option("--size", type=click.IntRange(min=8), help="Side of the square picture.")
_CLASSES = click.option(
    "--classes",
    "count",
    type=click.IntRange(1, 1000),
    default=19,
    show_default=True,
    help="Number of classes: Cityscapes' 19, then invented ones.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_THREADS = click.option("--threads", type=click.IntRange(min=1), help="[default: every core]")


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


def _out(name: str) -> Callable[[Any], Any]:
    return click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        help=f"Folder for {name}.json and {name}.png.",
    )


@click.command("latency")
@_ENGINE
@_PIPELINE
@_VAE
@_SIZE
@_CLASSES
@click.option(
    "--against",
    default="onnxruntime",
    show_default=True,
    metavar="NAMES",
    help=f"Comma-separated, of {', '.join(name for name in CONTENDERS if name != 'mdrt')}, "
    "or other bundles' directories; none for mdrt alone.",
)
@click.option("--images", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Every contender in turn, in fresh processes, this many times.",
)
@_THREADS
@_out("latency")
@_JSON
def latency_command(
    engine: Path,
    pipeline: Path | None,
    vae: Path | None,
    size: int | None,
    count: int,
    against: str,
    images: int,
    warmup: int,
    rounds: int,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time mdrt and other runtimes on the same pictures, stage by stage."""
    from ..benchmarks.speed.latency import race
    from ..benchmarks.speed.report import draw_race, race_table, work_table

    others = [name.strip() for name in against.split(",") if name.strip() not in ("", "none")]
    for name in others:
        if name not in CONTENDERS and not Path(name, contract.MANIFEST).is_file():
            raise click.UsageError(
                f"--against {name}: choose of {', '.join(CONTENDERS)}, or name a bundle's directory"
            )
        if name in PYTORCH and pipeline is None:
            raise click.UsageError(f"--against {name} needs --pipeline, the weights PyTorch reads")
    contenders = list(dict.fromkeys(["mdrt", *others]))
    task = _task(engine, pipeline, size, count, threads, vae)
    errors = Console(stderr=True)
    try:
        from ..benchmarks.speed import work
    except ImportError as error:
        raise MdrtError(
            f"mdrt bench needs {error.name}; run `pip install '.[bench]'` in mdrt's own folder"
        ) from error
    with errors.status("measuring") as status:
        status.update("the machine's own limits")
        peaks = work.peaks(threads)
        read = work.reading(load_bundle(engine, verify=False))
        status.update("counting multiply-adds")
        counts = work.multiply_adds(load_bundle(engine, verify=False), task.size)
        try:
            report = race(
                task, contenders, rounds=rounds, pictures=images, warmup=warmup, say=status.update
            )
        except RuntimeError as error:
            raise MdrtError(str(error)) from error
    for reason in report["failed"].values():
        errors.print(f"left out: {reason}", highlight=False, markup=False)
    report |= {"peaks": peaks, "multiply_adds": counts, "read_s": read}
    _show(report, [race_table(report), work_table(report)], as_json)
    if out is not None:
        _write(report, lambda file: draw_race(report, file), out, "latency")


@click.command("growth")
@_ENGINE
@_SIZE
@_CLASSES
@click.option("--classes-at", type=_Numbers(), default="1,19,171,847", show_default=True)
@click.option("--sizes-at", type=_Numbers(), default="256,512,1024,2048", show_default=True)
@click.option("--images-at", type=_Numbers(), default="1,4,16", show_default=True)
@_THREADS
@_out("growth")
@_JSON
def growth_command(
    engine: Path,
    size: int | None,
    count: int,
    classes_at: tuple[int, ...],
    sizes_at: tuple[int, ...],
    images_at: tuple[int, ...],
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time and memory against classes, picture size and the number of pictures, one at a time."""
    from ..benchmarks.speed.growth import draw_growth, grow, growth_table

    task = _task(engine, None, size, count, threads)
    points = {"classes": classes_at, "size": sizes_at, "images": images_at}
    with Console(stderr=True).status("measuring") as status:
        report = grow(task, points, status.update)
    _show(report, [growth_table(report)], as_json)
    if out is not None:
        _write(report, lambda file: draw_growth(report, file), out, "growth")


@click.command("parity")
@_ENGINE
@click.option(
    "--pipeline",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The diffusers pipeline that the bundle was exported from.",
)
@_VAE
@_SIZE
@_CLASSES
@_JSON
def parity_command(
    engine: Path, pipeline: Path, vae: Path | None, size: int | None, count: int, as_json: bool
) -> None:
    """Compare a bundle with its pipeline in PyTorch: every tensor, then every pixel's label."""
    try:
        from ..benchmarks.speed import parity
        from .export import proof_table
    except ImportError as error:
        raise MdrtError(
            f"mdrt bench parity needs {error.name}; "
            "run `pip install '.[export,bench]'` in mdrt's own folder"
        ) from error
    task = _task(engine, pipeline, size, count, None, vae)
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
        console = Console()
        console.print(proof_table(rows))
        table = Table("convolutions", "mode", "pixels with PyTorch's label")
        for agreement in agreements:
            table.add_row(agreement.graphs, agreement.mode, f"{agreement.share:.3%}")
        console.print(table)
    if not all(row.passed for row in rows):
        raise click.ClickException("a tensor is beyond its tolerance")


def _show(report: dict[str, Any], tables: Sequence[Table], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    console = Console()
    for table in tables:
        console.print(table)


def _write(
    report: dict[str, Any], draw: Callable[[BinaryIO], object], folder: Path, name: str
) -> None:
    """The report and its chart into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2) + "\n"
    write_atomically(folder / f"{name}.json", lambda file: file.write(text.encode()))
    write_atomically(folder / f"{name}.png", draw)
    click.echo(f"wrote {folder / name}.json and {folder / name}.png", err=True)


def _task(
    engine: Path,
    pipeline: Path | None,
    size: int | None,
    count: int,
    threads: int | None,
    vae: Path | None = None,
) -> Task:
    bundle = load_bundle(engine, verify=False)
    manifest = bundle.manifest
    size = size or manifest.native_size
    if size % manifest.size_multiple:
        raise click.UsageError(
            f"--size {size}: expected a multiple of {manifest.size_multiple} for this bundle"
        )
    cache = cache_folder()
    if cache is None:
        raise MdrtError("there is no home to keep what is exported for it; set XDG_CACHE_HOME")
    source, encoder = (None if path is None else str(path.resolve()) for path in (pipeline, vae))
    folder = str(bundle.path.resolve())
    return Task(folder, source, size, names(count), str(cache / "bench"), threads, encoder)
