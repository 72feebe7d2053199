"""What other questions cost of one bundle: words that come late, long lists, a shorter cut."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ...runtime.errors import UnknownNameWarning
from ...runtime.segmentation import Segmentation
from ...runtime.segmenter import Look, Segmenter
from .task import STAGES, Task, names

LONG: Final = (171, 847)
"""Names of COCO-Stuff and of ADE20K's longest list."""

SEGMENTS: Final = 8


@dataclass(frozen=True)
class Question:
    """Late words, or segments without names; of a look of its own, or of the one before."""

    name: str
    words: tuple[str, ...] = ()
    same_look: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def ask(self, look: Look) -> Segmentation:
        if self.words:
            return look.segment(self.words, words="late", **self.settings)
        return look.segments(SEGMENTS, **self.settings)


def questions(segmenter: Segmenter, count: int) -> list[Question]:
    """What is asked of a bundle, as far as it can answer."""
    manifest, asked = segmenter.manifest, []
    if manifest.attention:
        every = names(2 * count)
        asked = [
            Question(f"{count} names", every[:count]),
            Question(f"{count} others, same look", every[count:], same_look=True),
            *(Question(f"{many} names", names(many)) for many in LONG),
        ]
    asked.append(Question(f"{SEGMENTS} segments"))
    if manifest.encoder:
        asked.append(Question(f"{SEGMENTS} segments, encoder", settings={"features": "encoder"}))
    return asked


def ask_all(
    task: Task, pictures: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, dict[str, Any]]:
    """Ask every question of every picture, by turns in one process, once before it counts.

    Lists are encoded beforehand, as one is that comes again: what is timed of words is their keys,
    their attention and the pixels.

    Returns:
        For every question medians a stage and of the whole, in seconds.
    """
    taken: dict[str, list[dict[str, float]]] = {}
    with Segmenter(task.bundle, threads=task.threads) as segmenter, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownNameWarning)  # the names are invented
        asked = questions(segmenter, len(task.classes))
        for index in range(-1, pictures):
            image, look = task.image(max(index, 0)), None
            for question in asked:
                say(f"{question.name}: picture {index + 1} of {pictures}")
                if question.words:
                    segmenter.prepare(question.words)
                if look is None or not question.same_look:
                    look = segmenter.look(image)
                started = time.perf_counter()
                stages = question.ask(look).timings
                whole = time.perf_counter() - started
                if index >= 0:
                    taken.setdefault(question.name, []).append(stages | {"whole": whole})
    return {name: _medians(found) for name, found in taken.items()}


def _medians(found: list[dict[str, float]]) -> dict[str, Any]:
    middle = {
        stage: statistics.median(one.get(stage, 0.0) for one in found)
        for stage in (*STAGES, "whole")
        if any(stage in one for one in found)
    }
    return {"p50_s": middle.pop("whole"), "stages_s": middle}
