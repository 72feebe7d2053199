"""`mdrt batch`: very many pictures into shards of labels, here or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console

from ..runtime.errors import OutputError, PromptError
from ..runtime.look.prompts import load_classes, shown_names, with_background
from ..runtime.writers import FORMATS, PNG
from .asking import Segments, check_words, choose_head
from .groups import Command, experts, group, option
from .options import COUNT, engine_option, head_option, provider_option, set_option, threads_option

if TYPE_CHECKING:
    from ..runtime.batch.shards import Job, Outcome, Shard
    from ..runtime.batch.stores import Store
    from ..runtime.segmenter import Segmenter
    from ..runtime.writers.base import Run


@click.command("batch", cls=Command, extra="ray")
@click.argument("source", metavar="INPUT")
@click.argument("output")
@group(
    "What",
    option(
        "--classes",
        metavar="NAMES|@FILE",
        help="Names, or @FILE, as for `mdrt segment`.",
    ),
    option("--unsupervised", is_flag=True, help="Find segments without names."),
    option(
        "--segments",
        type=Segments(),
        default="auto",
        show_default=True,
        help="How many segments without names.",
    ),
)
@group(
    "How",
    head_option,
    set_option,
    engine_option,
)
@group(
    "Results",
    option(
        "--format",
        "formats",
        type=click.Choice([name for name in FORMATS if name != PNG]),
        multiple=True,
        default=("coco",),
        metavar="NAME",
        help="How labels are written, may be repeated, as for `mdrt segment`.  [default: coco]",
    ),
    option(
        "--shard",
        type=COUNT,
        default=1000,
        show_default=True,
        help="Pictures that are written together, and done again if a node dies.",
    ),
)
@group(
    "Where",
    option("--ray", metavar="ADDRESS", help="A Ray cluster: its address, auto or local."),
    option(
        "--workers",
        type=COUNT,
        default=1,
        show_default=True,
        help="How many load the model, with --ray.",
    ),
    option(
        "--gpus", type=click.FloatRange(min=0), default=0.0, help="Of each worker; 0.25 shares one."
    ),
    option(
        "--cpus",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="Of each worker.",
    ),
)
@experts(
    option("--quiet", is_flag=True, help="Tell of warnings and errors only."),
    option("--background", metavar="NAME", help="A class to leave uncoloured."),
    option("--column", default="image", show_default=True, help="Of Parquet files."),
    option(
        "--max-size",
        type=COUNT,
        metavar="PIXELS",
        help="Reduce a picture's longer side to this for the network.",
    ),
    provider_option,
    threads_option,
)
def batch_command(
    source: str,
    output: str,
    classes: str | None,
    unsupervised: bool,
    segments: int | Literal["auto"],
    head: str | None,
    settings: Mapping[str, str],
    engine: Path | None,
    formats: tuple[str, ...],
    shard: int,
    ray: str | None,
    workers: int,
    gpus: float,
    cpus: float,
    quiet: bool,
    background: str | None,
    column: str,
    max_size: int | None,
    provider: str | None,
    threads: int | None,
) -> None:
    """Segment all pictures of INPUT into shards of labels under OUTPUT.

    INPUT is a folder, a glob, a list of paths (.txt), a WebDataset tar, a Parquet file, or a URI as
    s3:// or gs://. A rerun does what is missing.

    \b
    mdrt batch photos labels --classes @classes.txt
    mdrt batch s3://my/photos s3://my/labels --classes "sky, sea" --ray auto --workers 8 --gpus 1
    """
    from ..runtime.batch.shards import Job, finished, plan
    from ..runtime.batch.sources import find_items
    from ..runtime.batch.stores import Store
    from ..runtime.heads import parse
    from ..runtime.segmenter import Segmenter
    from ..runtime.writers import find_format
    from ..runtime.writers.base import Run
    from .progress import progress_bar, say

    chosen = choose_head(head, unsupervised, classes, engine)
    check_words(chosen, background, segments)
    given = parse(chosen, settings)
    names = None if classes is None else list(load_classes(classes))
    loading: dict[str, Any] = {"provider": provider, "threads": threads}
    segmenter = Segmenter(engine, **loading)
    if names is None and chosen.kind == "named":
        names = list(segmenter.manifest.classes)
        if not names:
            raise PromptError('no class names; give --classes "sky, grass", or --unsupervised')
    if names is not None and background is not None:
        names, background = with_background(names, background)
    options = vars(segmenter.settle(chosen, **given))
    if names is not None:
        segmenter.prepare(names)
    used = {"head": chosen.name, "max_size": max_size, **options}
    run = Run(
        None if names is None else shown_names(names),
        background,
        segmenter.manifest.model_id,
        segmenter.manifest.sha256,
        used if names is not None else {**used, "segments": segments},
    )
    for name in formats:
        find_format(name).check(run)
    store = Store(output)
    _begin(store, run)
    counted = None if names is not None else segments
    job = Job(engine, loading, names, counted, chosen.name, max_size, options, formats, run, store)
    done = finished(store)
    shards = list(plan(find_items(source, column), shard, done))
    console, start = Console(stderr=True), time.perf_counter()
    made, errors = 0, dict[str, str]()
    with progress_bar(console, quiet) as bars:
        total = sum(len(one.items) for one in shards)
        task = bars.add_task("pictures", total=total)
        for outcome in _outcomes(job, segmenter, shards, ray, workers, cpus, gpus):
            made += outcome.done
            errors |= outcome.errors
            for name, line in outcome.errors.items():
                say(console, "error", f"{name}: {line}")
            bars.advance(task, outcome.done + len(outcome.errors))
    _end(store, errors)
    if not quiet:
        seconds = time.perf_counter() - start
        there = f"; {len(done)} were there already" if done else ""
        click.echo(f"{made} of {total} pictures in {seconds:.1f} s, labels in {output}{there}")
    if errors:
        raise click.ClickException(f"{len(errors)} of {total} pictures failed")


def _begin(store: Store, run: Run) -> None:
    """Say in the output what makes it.

    Raises:
        OutputError: another run is in it.
    """
    from ..runtime.batch.stores import RUN

    store.recover()
    before = store.read(RUN)
    if before is not None and not run.made(before):
        raise OutputError(
            f"{store.root} holds a run with other classes, settings or model; choose another output"
        )
    if before is None:
        store.write(RUN, run.describe())


def _end(store: Store, errors: Mapping[str, str]) -> None:
    """List what is there and what failed."""
    from ..runtime.batch.stores import MANIFEST

    shards = []
    for name in store.shards():
        found = store.read(f"shards/{name}/{MANIFEST}")
        if found is not None:
            shards.append({"name": name, "pictures": len(found["pictures"])})
    store.write(MANIFEST, {"shards": shards, "errors": dict(errors)})


def _outcomes(
    job: Job,
    segmenter: Segmenter,
    shards: Sequence[Shard],
    ray: str | None,
    workers: int,
    cpus: float,
    gpus: float,
) -> Iterator[Outcome]:
    """Shard after shard, here or on the cluster."""
    if ray is not None and shards:
        from ..runtime.batch.cluster import on_ray

        segmenter.close()
        yield from on_ray(job, shards, ray, workers, cpus, gpus)
        return
    from ..runtime.batch.shards import Worker

    yield from map(Worker(job, segmenter), shards)
