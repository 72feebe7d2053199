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
from rich.progress import Progress
from rich.text import Text

from ..runtime.heads import Head
from ..runtime.look.prompts import ClassName
from ..runtime.pictures.images import read_image
from ..runtime.pictures.output import printable, record, write_result
from ..runtime.segmentation import Segmentation
from ..runtime.segmenter import Segmenter
from ..runtime.sessions.trace import Trace
from .progress import say
from .tables import picture_table
from .telling import Telling


@dataclass(frozen=True)
class Job:
    """What every picture of one call has in common.

    Attributes:
        head, settings: how pictures are read, every setting given.
        classes: of a named head; None of another.
        segments: how many, of an unnamed head.
        background: the class left uncoloured.
        max_size: longer side in pixels that pictures are reduced to for the network.
        out, overlay: where results go, and whether overlays are among them.
    """

    head: Head
    settings: Mapping[str, Any]
    classes: Sequence[ClassName] | None
    segments: int | Literal["auto"]
    background: str | None
    max_size: int | None
    out: Path
    overlay: bool


class Batch:
    """The steps that every picture of one call goes through; see `overlap`."""

    def __init__(
        self,
        segmenter: Segmenter,
        job: Job,
        stems: Mapping[Path, str],
        progress: Progress,
        as_json: bool,
        trace: Trace | None,
        telling: Telling,
    ) -> None:
        self.segmenter = segmenter
        self.job = job
        self.stems = stems
        self.progress = progress
        self.as_json = as_json
        self.trace = trace
        self.telling = telling
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
        (pixels, seconds), job = arrived, self.job
        task = self.progress.add_task(printable(path.name), total=None)
        try:
            with self._span("segment", path):
                look = self.segmenter.look(
                    pixels,
                    max_size=job.max_size,
                    progress=lambda done, total: self.progress.update(
                        task, completed=done, total=total
                    ),
                )
                if job.classes is not None:
                    result = look.segment(job.classes, job.head, **job.settings)
                else:
                    result = look.segments(job.segments, job.head, **job.settings)
        finally:
            self.progress.remove_task(task)
        result.timings["image"] = result.timings.get("image", 0.0) + seconds
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
            if self.telling.whole:
                lines = "".join(traceback.format_exception(error)).rstrip()
                console.print(Text(printable(lines)), soft_wrap=True)
            say(console, "error", self.telling.line(error, where=f"{path}: "))
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


def _show(values: dict[str, Any], as_json: bool, console: Console) -> None:
    if as_json:
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    console.print(picture_table(values))
    settings, seconds = values["settings"], sum(values["seconds"].values())
    console.print(
        f"{values['model']}, {settings['head']}, {settings['backend']}, "
        f"{'Winograd, ' if settings['winograd'] else ''}{settings['tiles']} tile(s), "
        f"{seconds:.2f} s",
        highlight=False,
        markup=False,
    )
    console.print(Text("wrote " + ", ".join(values["files"].values())), soft_wrap=True)
