"""The pictures of one `mdrt segment`: read, segmented, written, and told about."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..runtime.errors import MdrtError
from ..runtime.look.prompts import ClassName
from ..runtime.pictures.images import read_image
from ..runtime.pictures.output import printable, record, write_result
from ..runtime.segmenter import Options, Segmentation, Segmenter
from ..runtime.sessions.trace import Trace
from .debug import surprise


@dataclass(frozen=True)
class Job:
    """What every picture of one call has in common."""

    classes: Sequence[ClassName] | None
    segments: int | Literal["auto"] | None
    background: str | None
    out: Path
    overlay: bool


class Batch:
    """The steps that every picture of one call goes through; see `overlap`."""

    def __init__(
        self,
        segmenter: Segmenter,
        job: Job,
        options: Options,
        stems: Mapping[Path, str],
        progress: Progress,
        as_json: bool,
        trace: Trace | None,
        debug: bool,
    ) -> None:
        self.segmenter = segmenter
        self.job = job
        self.options = options
        self.stems = stems
        self.progress = progress
        self.as_json = as_json
        self.trace = trace
        self.debug = debug
        total = len(stems)
        self.overall = progress.add_task("pictures", total=total, visible=total > 1)

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        """A picture, and the seconds that took."""
        start = time.perf_counter()
        with self._span("read", path):
            return read_image(path), time.perf_counter() - start

    def segment(
        self, path: Path, arrived: tuple[NDArray[np.uint8], float]
    ) -> tuple[NDArray[np.uint8], Segmentation]:
        """The picture with its result."""
        pixels, seconds = arrived
        task = self.progress.add_task(printable(path.name), total=None)
        try:
            with self._span("segment", path):
                result = self.segmenter(
                    pixels,
                    self.job.classes,
                    segments=self.job.segments,
                    options=self.options,
                    progress=lambda done, total: self.progress.update(
                        task, completed=done, total=total
                    ),
                )
        finally:
            self.progress.remove_task(task)
        result.timings["image"] += seconds
        return pixels, result

    def finish(
        self, path: Path, outcome: tuple[NDArray[np.uint8], Segmentation] | Exception
    ) -> bool:
        """Write the result, or say why there is none; returns whether there is one."""
        console = self.progress.console
        try:
            if isinstance(outcome, Exception):
                raise outcome
            with self._span("write", path):
                values = self._write(path, *outcome)
        except Exception as error:  # one picture's surprise must not cost the others
            if self.debug:
                lines = "".join(traceback.format_exception(error)).rstrip()
                console.print(Text(printable(lines)), soft_wrap=True)
            reason = str(error) if isinstance(error, MdrtError) else f"{path}: {surprise(error)}"
            say(console, "error", reason)
            return False
        finally:
            self.progress.advance(self.overall)
        _show(values, self.as_json, console if self.as_json else Console())
        return True

    def _write(self, path: Path, pixels: NDArray[np.uint8], result: Segmentation) -> dict[str, Any]:
        job = self.job
        values = record(result, printable(path), self.segmenter.manifest.model_id, job.background)
        files = write_result(
            job.out,
            self.stems[path],
            pixels,
            result,
            values,
            background=job.background,
            with_overlay=job.overlay,
        )
        return values | {"files": files}

    def _span(self, name: str, path: Path) -> AbstractContextManager[None]:
        if self.trace is None:
            return nullcontext()
        return self.trace.span(name, picture=printable(path))


def progress_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # an empty line is all that a log would get of it
    )


def say(console: Console, kind: str, text: str) -> None:
    """A warning or an error: one line; names in it are text, never markup."""
    style = "red" if kind == "error" else "yellow"
    console.print(Text(f"{kind}: ", style).append(printable(text), "default"), soft_wrap=True)


def _show(values: dict[str, Any], as_json: bool, console: Console) -> None:
    if as_json:
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    title = Text(f"{values['image']}  {values['size'][1]}×{values['size'][0]}")
    table = Table(title=title, title_justify="left")
    for name in ("class", "share", "confidence"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for entry in sorted(values["classes"], key=lambda entry: -entry["share"]):
        if entry["pixels"]:
            table.add_row(
                Text(entry["name"]), f"{entry['share']:.1%}", f"{entry['confidence']:.3f}"
            )
    console.print(table)
    settings, seconds = values["settings"], sum(values["seconds"].values())
    console.print(
        f"{values['model']}, {settings['mode']}, {settings['pooling'] or settings['method']}, "
        f"timestep {settings['timestep']}, {settings['tiles']} tile(s), {settings['backend']}, "
        f"{'Winograd, ' if settings['winograd'] else ''}{seconds:.2f} s",
        highlight=False,
        markup=False,
    )
    console.print(Text("wrote " + ", ".join(values["files"].values())), soft_wrap=True)
