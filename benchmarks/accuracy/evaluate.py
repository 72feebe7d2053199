"""The loop of every evaluation: a picture is read, looked at once, segmented by every setting, and
scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ...kernels import Array, void
from ...runtime.errors import DatasetError
from ...runtime.heads import Head, HeadOptions
from ...runtime.look.prompts import ClassName, synonyms
from ...runtime.overlap import overlap
from ...runtime.segmentation import Segmentation
from ...runtime.segmenter import Look, Segmenter
from ..metrics import NO_CLASS, Labels
from .background import BackgroundSweep, background_of
from .datasets.base import Dataset, Sample
from .protocols import PROTOCOLS, boundary_counts
from .prototypes_gt import GroundTruth, fitted
from .settings import Entry, Setting, find_head
from .store import Store

Progress = Callable[[str, int, int], None]

NETWORKS: Final = ("text", "vae", "unet")
"""Stages of a look that no head runs again."""


@dataclass(frozen=True)
class Answer:
    """One picture by one setting.

    Attributes:
        labels: (H, W) class indices, or segment numbers; `NO_CLASS` where no class or segment
            reached the head's threshold. Of a sweep of the background (values, H, W).
        seconds: in the networks, which a look runs once, and in the head itself.
    """

    labels: Labels
    seconds: tuple[float, float]


def label(
    look: Look,
    setting: Setting,
    classes: Sequence[ClassName],
    truth: NDArray[np.uint8],
    prototypes: Sequence[Array] | None = None,
) -> Labels:
    """The labels of `answer`."""
    return answer(look, setting, classes, truth, prototypes).labels


def answer(
    look: Look,
    setting: Setting,
    classes: Sequence[ClassName],
    truth: NDArray[np.uint8],
    prototypes: Sequence[Array] | None = None,
    sweep: BackgroundSweep | None = None,
) -> Answer:
    """One picture by one setting.

    Args:
        look: at the picture.
        setting: how.
        classes: every class of the data set.
        truth: (H, W), only to tell what is present, and how many segments.
        prototypes: (classes, d_l) a level, of settings that were fitted.
        sweep: scores of the background to try, of named heads.
    """
    start, head = time.perf_counter(), find_head(setting.head)
    every = range(len(classes))
    present = [int(c) for c in np.unique(truth) if c < len(classes)] or list(every)
    timings: list[Mapping[str, float]] = []
    if head.kind == "unnamed":
        wanted = len(present) if setting.segments == "present" else setting.segments
        count = wanted if head.counts else "auto"
        found = look.segments(count, head=head, **vars(setting.options))
        labels = _named(found.labels, range(len(found.classes)))
    else:
        prompted = present if setting.prompt_classes == "present" else list(every)
        if setting.prompt_classes == "predicted":
            prompted, spent = predicted(look, classes, setting.prompt_presence)
            timings.append(spent)
        if prototypes is not None:
            head = fitted(prototypes, classes)
        found, labels = _by_name(look, head, setting.options, classes, prompted, sweep)
    timings.append(found.timings)
    networks = sum(spent.get(stage, 0.0) for spent in timings for stage in NETWORKS)
    return Answer(labels, (networks, time.perf_counter() - start - networks))


def _by_name(
    look: Look,
    head: Head,
    options: HeadOptions,
    classes: Sequence[ClassName],
    prompted: Sequence[int],
    sweep: BackgroundSweep | None,
) -> tuple[Segmentation, Labels]:
    """What a named head makes of the classes in the prompt, and its labels."""
    if sweep is None:
        found = look.segment([classes[index] for index in prompted], head=head, **vars(options))
        return found, _named(found.labels, prompted)
    background = background_of([synonyms(names) for names in classes])
    assert background is not None  # the command line has seen to it
    others = [index for index in prompted if index != background]
    others = others or [index for index in range(len(classes)) if index != background]
    prompted = [*others, background] if sweep.own else others
    own = vars(options) | {"background": "none", "threshold": 0.0}
    found = look.segment([classes[index] for index in prompted], head=head, scores=True, **own)
    assert found.scores is not None
    scores = found.scores.copy()
    scores[[name in found.settings["absent"] for name in found.classes]] = -np.inf
    return found, sweep.labels(scores, prompted, background)


def predicted(
    look: Look, classes: Sequence[ClassName], presence: float
) -> tuple[list[int], dict[str, float]]:
    """The classes that head maskdiffusion finds in a picture, no truth asked, and the seconds.

    All names are in the prompt; those that win less than `presence` of the attention's cells are
    taken to be absent. All else is as the bundle recommends to that head, so that every head that
    is scored has the same names.
    """
    found = look.segment(
        classes,
        "maskdiffusion",
        pooling="softmax",
        presence=presence,
        refine="none",
        background="none",
        threshold=0.0,
    )
    absent = set(found.settings["absent"])
    return [i for i, name in enumerate(found.classes) if name not in absent], found.timings


def _named(labels: Labels, names: Sequence[int]) -> Labels:
    """A segmenter's labels (H, W) as those of `names` that they stand for; its void as
    `NO_CLASS`."""
    table = np.full(void(labels) + 1, NO_CLASS)
    table[: len(names)] = names
    found: Labels = table[labels]
    return found


@dataclass
class TimeSpent:
    """Seconds of the two sides that overlap."""

    looking: float = 0.0
    scoring: float = 0.0
    pictures: int = 0


@dataclass
class Evaluation:
    """One data set, one bundle, every entry.

    Attributes:
        dataset: what is segmented.
        segmenter: the loaded bundle.
        entries: what is scored.
        store: where counts go; what it already has is not done again.
        train: the split that fitted heads learn prototypes from, if any is asked for.
        boundaries: also count the boundaries of classes, for boundary IoU.
        on_error: whether a picture that cannot be read is noted and skipped, or ends it all.
    """

    dataset: Dataset
    segmenter: Segmenter
    entries: Sequence[Entry]
    store: Store
    train: Dataset | None = None
    boundaries: bool = False
    on_error: Literal["skip", "fail"] = "skip"
    spent: TimeSpent = field(default_factory=TimeSpent)

    def run(self, indices: Sequence[int], progress: Progress) -> None:
        """Score the pictures at `indices` that are not scored yet.

        Args:
            indices: into the data set.
            progress: told what is gone through, how much of it is done, and of how much.

        Raises:
            DatasetError: a picture cannot be read and `on_error` is "fail".
        """
        prototypes = self._fit(progress)
        keys = {entry.key for entry in self.entries}
        done = self.store.done({e.key for e in self.entries if self._has_boundaries(e)})
        left = [i for i in indices if keys - done.get(self.dataset.ids[i], set())]
        scored = count(len(indices) - len(left))
        progress(self.dataset.name, next(scored), len(indices))

        def work(index: int, sample: Sample) -> dict[Entry, tuple[NDArray[np.uint8], Answer]]:
            start = time.perf_counter()
            found = self._label(sample, prototypes, done.get(sample.id, set()))
            self.spent.looking += time.perf_counter() - start
            return found

        def finish(index: int, outcome: Any) -> None:
            start = time.perf_counter()
            self._keep(index, outcome)
            self.spent.scoring += time.perf_counter() - start
            self.spent.pictures += 1
            progress(self.dataset.name, next(scored), len(indices))

        overlap(left, self.dataset.load, work, finish)

    def _label(
        self, sample: Sample, prototypes: Mapping[Setting, Any], done: set[str]
    ) -> dict[Entry, tuple[NDArray[np.uint8], Answer]]:
        """(truth, answer) of every entry that is not done."""
        looks: dict[int | None, tuple[Look, NDArray[np.uint8]]] = {}
        answers: dict[tuple[int | None, Setting, BackgroundSweep | None], Answer] = {}
        found = {}
        for entry in self.entries:
            if entry.key in done:
                continue
            protocol, setting = PROTOCOLS[entry.protocol], entry.setting
            if protocol.crop not in looks:
                image, truth = protocol.prepare(sample.image, sample.truth)
                looks[protocol.crop] = self.segmenter.look(image), truth
            look, truth = looks[protocol.crop]
            key = protocol.crop, setting, protocol.sweep
            if key not in answers:
                answers[key] = answer(
                    look,
                    setting,
                    self.dataset.classes,
                    truth,
                    prototypes.get(setting),
                    protocol.sweep,
                )
            found[entry] = truth, answers[key]
        return found

    def _has_boundaries(self, entry: Entry) -> bool:
        protocol = PROTOCOLS[entry.protocol]
        return self.boundaries and protocol.matching == "none" and protocol.sweep is None

    def _keep(self, index: int, outcome: Any) -> None:
        if isinstance(outcome, DatasetError) and self.on_error == "skip":
            self.store.add_problem(self.dataset.ids[index], str(outcome))
            return
        if isinstance(outcome, Exception):
            raise outcome
        classes, background = len(self.dataset.classes), background_of(self.dataset.classes)
        counts, boundaries, seconds = {}, {}, {}
        for entry, (truth, found) in outcome.items():
            protocol = PROTOCOLS[entry.protocol]
            counts[entry.key] = protocol.count(truth, found.labels, classes, background)
            seconds[entry.key] = found.seconds
            if self._has_boundaries(entry):
                boundaries[entry.key] = boundary_counts(truth, found.labels, classes)
        self.store.add(self.dataset.ids[index], counts, boundaries, seconds)

    def _fit(self, progress: Progress) -> dict[Setting, list[NDArray[np.float32]]]:
        """The prototypes of every setting whose head needs them, from the training split."""
        wanted = dict.fromkeys(e.setting for e in self.entries if e.setting.fitted)
        known = {setting: self.store.fitted(setting.key) for setting in wanted}
        prototypes = {setting: levels for setting, levels in known.items() if levels is not None}
        sums = {s: GroundTruth(len(self.dataset.classes)) for s in wanted if s not in prototypes}
        if not sums:
            return prototypes
        if self.train is None:
            raise DatasetError("prototypes-gt needs a training split", train_root=...)
        for index in range(len(self.train)):
            sample = self.train.load(index)
            with self.segmenter.network.device.active():
                taps = self.segmenter.look(sample.image).taps
                for setting, total in sums.items():
                    options: Any = setting.options
                    total.add(taps, options, sample.truth)
            progress(f"{self.train.name}, training split", index + 1, len(self.train))
        for setting, total in sums.items():
            prototypes[setting] = total.prototypes()
            self.store.add_fitted(setting.key, prototypes[setting])
        return prototypes


def shard(count: int, text: str | None, limit: int | None) -> list[int]:
    """The pictures of shard "i/n" (1 ≤ i ≤ n): every n-th of the first `limit`.

    Raises:
        DatasetError: the text is no shard.
    """
    total = count if limit is None else min(count, limit)
    if text is None:
        return list(range(total))
    index, _, of = text.partition("/")
    if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
        raise DatasetError(f"shard is {text!r}, expected i/n with 1 ≤ i ≤ n, as in 2/8")
    return list(range(int(index) - 1, total, int(of)))
