"""The pictures of one `mdrt segment`: read, segmented, written, and told about."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ..runtime.bundle.contract import ONNXRUNTIME
from ..runtime.heads import Head
from ..runtime.look.prompts import ClassName, shown_names
from ..runtime.pictures.images import read_image
from ..runtime.pictures.output import printable
from ..runtime.segmentation import SCHEMA, Segmentation
from ..runtime.segmenter import Segmenter
from ..runtime.sessions.deadline import within
from ..runtime.sessions.trace import Trace
from ..runtime.writers.outputs import Outputs
from . import Terminated
from .progress import needs_ascii, say
from .tables import picture_table, print_whole
from .telling import Telling, shown

Form: TypeAlias = Literal["text", "json", "quiet"]
"""How results are told: tables and lines, a JSON object a picture, or not at all."""

MANY: Final = 256
"""Passes from which on a picture's time is announced."""

A_FEW: Final = 3
"""Pictures of which each has a table; of more one line tells."""


@dataclass(frozen=True)
class Job:
    """What every picture of one call has in common.

    Attributes:
        head, settings: how pictures are read, every setting given.
        classes: of a named head; None of another.
        segments: how many, of an unnamed head.
        background: the class left uncoloured.
        max_size: longer side in pixels that pictures are reduced to for the network.
        scores: whether the scores of all classes are kept for what is written.
        max_side: longer side in pixels of pictures that are read at all.
        timeout: seconds a picture may take.
    """

    head: Head
    settings: Mapping[str, Any]
    classes: Sequence[ClassName] | None
    segments: int | Literal["auto"]
    background: str | None
    max_size: int | None
    scores: bool
    max_side: int | None = None
    timeout: float | None = None


class _Announced:
    """Says how long a picture of many passes will take, as soon as the first are done."""

    def __init__(self, console: Console, name: str, wanted: bool) -> None:
        self.console, self.name, self.wanted = console, name, wanted
        self.first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        if not self.wanted or total < MANY or done == total:
            return
        if self.first is None:
            self.first = done, time.perf_counter()
        elif done >= self.first[0] + MANY // 8:
            began, start = self.first
            seconds = (time.perf_counter() - start) / (done - began) * (total - done)
            say(
                self.console,
                "note",
                f"{self.name}: about {seconds:.0f} s more for {total} passes of the network, then "
                "its labels and files; --max-size makes it less",
            )
            self.wanted = False


class Batch:
    """The steps that every picture of one call goes through; see `overlap`.

    Attributes:
        failures: pictures that have no result.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        job: Job,
        outputs: Outputs,
        out: Path,
        progress: Progress,
        form: Form,
        trace: Trace | None,
        telling: Telling,
    ) -> None:
        self.segmenter, self.job, self.outputs, self.out = segmenter, job, outputs, out
        self.progress, self.form, self.trace, self.telling = progress, form, trace, telling
        self.failures = self.skipped = self.done = 0
        self.with_class: Counter[str] = Counter()
        self.counts: list[int] = []
        self.overall = progress.add_task("pictures", visible=False)

    def todo(self, skip_existing: bool) -> list[Path]:
        """The pictures to work on: every one, or those that have no such result yet."""
        every = self.outputs.pictures
        found = [path for path in every if not (skip_existing and self.outputs.hold(path))]
        self.skipped = len(every) - len(found)
        self.progress.update(self.overall, total=len(found), visible=len(found) > 1)
        return found

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around the work: how it went or, where it is interrupted, how far it came."""
        start, total = time.perf_counter(), len(self.outputs.pictures)
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            far = f"{self.done + self.skipped} of {total} pictures are done, and whole"
            advice = "--skip-existing goes on from there"
            say(self.progress.console, "interrupted", f"{far}; {advice}")
            raise
        if self.form == "text" and (total > A_FEW or self.skipped):
            self._summary(time.perf_counter() - start)

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        """A picture, and the seconds that took."""
        start = time.perf_counter()
        with self._span("read", path):
            return read_image(path, self.job.max_side), time.perf_counter() - start

    def segment(self, path: Path, arrived: tuple[NDArray[np.uint8], float]) -> Segmentation:
        """The picture's result."""
        (pixels, seconds), job = arrived, self.job
        task = self.progress.add_task(shown(printable(path.name)), total=None)
        announced = _Announced(self.progress.console, printable(path), self.form != "quiet")

        def tell(done: int, total: int) -> None:
            self.progress.update(task, completed=done, total=total)
            announced(done, total)

        try:
            with self._span("segment", path), within(job.timeout):
                look = self.segmenter.look(
                    pixels,
                    max_size=job.max_size,
                    progress=tell,
                    source=str(path),
                )
                if job.classes is not None:
                    result = look.segment(job.classes, job.head, scores=job.scores, **job.settings)
                else:
                    result = look.segments(
                        job.segments, job.head, scores=job.scores, **job.settings
                    )
        finally:
            self.progress.remove_task(task)
        result.timings["image"] = result.timings.get("image", 0.0) + seconds
        return result

    def finish(self, path: Path, outcome: Segmentation | Exception) -> None:
        """Write the result, or say why there is none."""
        console = self.progress.console
        try:
            if isinstance(outcome, Exception):
                raise outcome
            with self._span("write", path):
                record = self.outputs.write(path, outcome)
        except Exception as error:  # one picture's surprise must not cost the others
            self.failures += 1
            if self.telling.whole:
                lines = "".join(traceback.format_exception(error)).rstrip()
                console.print(Text(shown(printable(lines))), soft_wrap=True)
            line = self.telling.line(error, where=f"{path}: ")
            say(console, "error", line)
            if self.form == "json":
                _print_json({"schema": SCHEMA, "image": printable(path), "error": printable(line)})
        else:
            self._tell(record, outcome)
        finally:
            self.progress.advance(self.overall)

    def _tell(self, record: Mapping[str, Any], result: Segmentation) -> None:
        self.done += 1
        self.with_class.update(name for name in result.found if name != self.job.background)
        self.counts.append(len(result.found))
        if self.form == "json":
            _print_json(record)
        elif self.form == "text" and len(self.outputs.pictures) <= A_FEW:
            _show(record, Console())

    def _summary(self, seconds: float) -> None:
        """One line on all pictures."""
        parts = [
            f"{self.done} of {len(self.outputs.pictures)} pictures in {seconds:.1f} s, "
            f"results in {self.out}"
        ]
        if self.counts and self.job.classes is None:
            parts.append(f"{min(self.counts)} to {max(self.counts)} segments a picture")
        elif self.counts:
            found = [f"{name} in {count}" for name, count in self.with_class.most_common()]
            names = shown_names(self.job.classes or ())
            named = (name for name in names if name != self.job.background)
            missing = [name for name in named if not self.with_class[name]]
            parts += [_listed(found)] if found else []
            parts += [f"in none {_listed(missing)}"] if missing else []
        if self.skipped:
            parts.append(f"{self.skipped} were there already")
        if self.failures:
            parts.append(f"{self.failures} failed")
        Console().print(Text("; ".join(parts)), soft_wrap=True)

    def _span(self, name: str, path: Path) -> AbstractContextManager[None]:
        if self.trace is None:
            return nullcontext()
        return self.trace.span(name, picture=printable(path))


def _listed(names: Sequence[str]) -> str:
    """The first eight, and how many more."""
    more = f" and {len(names) - 8} names more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _print_json(values: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(values, ensure_ascii=needs_ascii()) + "\n")
    sys.stdout.flush()


def _show(record: Mapping[str, Any], console: Console) -> None:
    """A table of one picture, what made it, and where it is."""
    print_whole(console, picture_table(record))
    settings, seconds = record["settings"], sum(record["seconds"].values())
    tiles = settings["tiles"]
    own = settings["operators"] not in (None, ONNXRUNTIME)
    console.print(
        f"{record['model']}, {settings['head']}, {settings['backend']}, "
        f"{settings['operators'] + ', ' if own else ''}{tiles} tile{'s' * (tiles > 1)}, "
        f"{seconds:.2f} s",
        highlight=False,
        markup=False,
    )
    console.print(Text("wrote " + shown(", ".join(record["files"].values()))), soft_wrap=True)
