"""`mdrt raster`: a GeoTIFF in, a GeoTIFF of labels out, of any size."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..runtime.errors import PromptError
from ..runtime.look.prompts import load_classes, with_background
from . import Terminated
from .asking import Segments, check_words, choose_head, refine_option, with_refine
from .groups import Command, experts, group, option
from .options import (
    COUNT,
    PATH,
    engine_option,
    json_option,
    provider_option,
    set_option,
    threads_option,
)
from .progress import say
from .tables import picture_table, print_whole

EVERY: Final = 60.0
"""Seconds between the lines that tell how far it is, where there is no terminal."""

STEPS: Final = {"seeing": 1, "labelling": 2, "writing": 3}


class _Bands(click.ParamType):  # type: ignore[type-arg]
    name = "R,G,B"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        try:
            return tuple(int(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}; expected numbers of bands, as 3,2,1", param, ctx)


@click.command("raster", cls=Command, extra="geo")
@click.argument("raster", type=PATH)
@click.argument("labels", type=PATH)
@group(
    "What",
    option("--classes", metavar="NAMES|@FILE", help="Names, as for `mdrt segment`."),
    option("--unsupervised", is_flag=True, help="Find segments without names."),
    option(
        "--segments",
        type=Segments(),
        default="auto",
        show_default=True,
        help="How many segments without names; auto finds it in cells from all over the raster.",
    ),
    option(
        "--bands",
        type=_Bands(),
        metavar="R,G,B",
        help="Which bands are red, green and blue, from 1; one alone is grey.  [default: the first "
        "three]",
    ),
)
@group(
    "How",
    option(
        "--head",
        metavar="NAME",
        help="The method: maskdiffusion or attention; without names spectral, kmeans, ncut or "
        "multicut.",
    ),
    set_option,
    refine_option("raster"),
    engine_option,
    option(
        "--max-pixels",
        type=COUNT,
        metavar="N",
        help="Refuse a raster of more.  [default: 2000000000]",
    ),
)
@group(
    "Results",
    option("--quiet", is_flag=True, help="Tell of warnings and errors only."),
    json_option,
)
@experts(
    option("--background", metavar="NAME", help="A class that is black; added if it is not there."),
    option("--overwrite", is_flag=True, help="Replace files of other origin too."),
    provider_option,
    threads_option,
)
def raster_command(
    raster: Path,
    labels: Path,
    classes: str | None,
    unsupervised: bool,
    segments: int | Literal["auto"],
    bands: tuple[int, ...] | None,
    head: str | None,
    settings: Mapping[str, str],
    refine: str | None,
    engine: Path | None,
    max_pixels: int | None,
    quiet: bool,
    as_json: bool,
    background: str | None,
    overwrite: bool,
    provider: str | None,
    threads: int | None,
) -> None:
    """Segment RASTER, a GeoTIFF of any size, into LABELS, a GeoTIFF in the same place.

    It is read and written by windows, in memory that does not grow with it; prototypes are of all
    of it. What was seen so far lies beside LABELS until it is written: if it was interrupted, the
    same command goes on from there.

    \b
    mdrt raster scene.tif labels.tif --classes "water, forest, field, road" --engine sd15
    mdrt raster scene.tif labels.tif --segments 6 --bands 4,3,2 --engine sd15
    """
    from ..runtime.heads import parse
    from ..runtime.raster.segment import MAX_PIXELS, segment_raster
    from ..runtime.segmenter import Segmenter

    chosen = choose_head(head, unsupervised, classes, engine)
    check_words(chosen, background, segments)
    given = parse(chosen, with_refine(settings, refine))
    names = None if classes is None else list(load_classes(classes))
    console = Console(stderr=True)
    with Segmenter(engine, provider=provider, threads=threads) as segmenter:
        if names is None and chosen.kind == "named":
            names = list(segmenter.manifest.classes)
            if not names:
                raise PromptError('no class names; give --classes "sky, grass", or --unsupervised')
        if names is not None and background is not None:
            names, background = with_background(names, background)
        start = time.monotonic()
        with _bar(console, quiet) as bar:
            telling = _Telling(bar, console, quiet)
            try:
                record = segment_raster(
                    segmenter,
                    raster,
                    labels,
                    chosen,
                    names,
                    segments,
                    bands=bands,
                    background=background,
                    max_pixels=max_pixels or MAX_PIXELS,
                    overwrite=overwrite,
                    progress=telling,
                    **given,
                )
            except (KeyboardInterrupt, Terminated):
                if telling.begun:
                    say(console, "interrupted", "the same command goes on from there")
                raise
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
    elif not quiet:
        out = Console()
        print_whole(out, picture_table(record))
        out.print(
            Text(
                f"wrote {record['files']['labels']}, {record['files']['record']} in "
                f"{_span(time.monotonic() - start)}"
            ),
            soft_wrap=True,
        )


def _bar(console: Console, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
        # blocks end seldom: the speed is that of many
        speed_estimate_period=600,
    )


class _Telling:
    """How far it is: a bar for each of the three steps on a terminal, else a line a minute.

    The time that is told to remain is this step's, at the speed of this run: what was done before
    it was interrupted took none of it.
    """

    def __init__(self, bar: Progress, console: Console, quiet: bool) -> None:
        self.begun = False
        self._bar, self._console = bar, console
        self._lines = not quiet and not console.is_terminal
        self._step, self._task = "", TaskID(-1)
        self._start, self._first, self._told = 0.0, 0.0, 0.0

    def __call__(self, step: str, done: float, total: int) -> None:
        now = time.monotonic()
        if step != self._step:
            if self._step:
                self._bar.remove_task(self._task)
            name = f"{step} ({STEPS[step]} of {len(STEPS)})"
            self._task = self._bar.add_task(name, total=total)
            self._step, self._start, self._first, self._told = step, now, done, now
            if done:
                say(self._console, "resumed", f"{step}: {done:g} of {total} blocks were done")
        self.begun |= done > 0
        self._bar.update(self._task, completed=done)
        if self._lines and now - self._told >= EVERY and done > self._first:
            self._told = now
            left = (now - self._start) / (done - self._first) * (total - done)
            say(
                self._console,
                "progress",
                f"{step} ({STEPS[step]} of {len(STEPS)}): {done / total:.0%}, "
                f"about {_span(left)} more for this step",
            )


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
