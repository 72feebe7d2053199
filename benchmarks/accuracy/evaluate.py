"""The loop of every evaluation: a picture is read, looked at once, segmented by every setting, and
scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...kernels import Array, void
from ...runtime.errors import DatasetError
from ...runtime.look.prompts import ClassName
from ...runtime.overlap import overlap
from ...runtime.segmenter import Look, Segmenter
from ..metrics import NO_CLASS, Labels
from .datasets.base import Dataset, Sample
from .protocols import PROTOCOLS, boundary_counts
from .prototypes_gt import GroundTruth, fitted
from .settings import Entry, Setting, find_head
from .store import Store

Progress = Callable[[str, int, int], None]


def label(
    look: Look,
    setting: Setting,
    classes: Sequence[ClassName],
    truth: NDArray[np.uint8],
    prototypes: Sequence[Array] | None = None,
) -> Labels:
    """One picture by one setting: (H, W) class indices, or segment numbers; `NO_CLASS` where no
    class or segment reached the head's threshold.

    Args:
        look: at the picture.
        setting: how.
        classes: every class of the data set.
        truth: (H, W), only to tell what is present, and how many segments.
        prototypes: (classes, d_l) a level, of settings that were fitted.
    """
    head, options = find_head(setting.head), vars(setting.options)
    every = list(range(len(classes)))
    present = [int(c) for c in np.unique(truth) if c < len(classes)] or every
    if head.kind == "unnamed":
        wanted = len(present) if setting.segments == "present" else setting.segments
        segments = look.segments(wanted if head.counts else "auto", head=head, **options)
        return _named(segments.labels, range(len(segments.classes)))
    if prototypes is not None:
        head = fitted(prototypes, classes)
    prompted = present if setting.dynamic else every
    found = look.segment([classes[index] for index in prompted], head=head, **options)
    return _named(found.labels, prompted)


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

        def work(index: int, sample: Sample) -> dict[Entry, tuple[NDArray[np.uint8], Labels]]:
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
    ) -> dict[Entry, tuple[NDArray[np.uint8], Labels]]:
        """(truth, labels) of every entry that is not done."""
        looks: dict[int | None, tuple[Look, NDArray[np.uint8]]] = {}
        labelled: dict[tuple[int | None, Setting], Labels] = {}
        found = {}
        for entry in self.entries:
            if entry.key in done:
                continue
            protocol, setting = PROTOCOLS[entry.protocol], entry.setting
            if protocol.crop not in looks:
                image, truth = protocol.prepare(sample.image, sample.truth)
                looks[protocol.crop] = self.segmenter.look(image), truth
            look, truth = looks[protocol.crop]
            if (protocol.crop, setting) not in labelled:
                labelled[protocol.crop, setting] = label(
                    look, setting, self.dataset.classes, truth, prototypes.get(setting)
                )
            found[entry] = truth, labelled[protocol.crop, setting]
        return found

    def _has_boundaries(self, entry: Entry) -> bool:
        return self.boundaries and PROTOCOLS[entry.protocol].matching == "none"

    def _keep(self, index: int, outcome: Any) -> None:
        if isinstance(outcome, DatasetError) and self.on_error == "skip":
            self.store.add_problem(self.dataset.ids[index], str(outcome))
            return
        if isinstance(outcome, Exception):
            raise outcome
        classes = len(self.dataset.classes)
        counts, boundaries = {}, {}
        for entry, (truth, labels) in outcome.items():
            protocol = PROTOCOLS[entry.protocol]
            counts[entry.key] = protocol.count(truth, labels, classes)
            if self._has_boundaries(entry):
                boundaries[entry.key] = boundary_counts(truth, labels, classes)
        self.store.add(self.dataset.ids[index], counts, boundaries)

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
