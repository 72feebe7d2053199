"""The loop of every evaluation: a picture is read, shown to the networks once, and scored."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from ...runtime.errors import DatasetError
from ...runtime.look.network import Network
from ...runtime.overlap import overlap
from .datasets.base import Dataset, Sample
from .looks import Look
from .methods import METHODS, GroundTruth, Setting, Task
from .protocols import PROTOCOLS, Labels, boundary_counts
from .store import Store

DEFAULT_PROTOCOLS: Final = {"named": "miou", "segments": "hungarian-image"}


@dataclass(frozen=True)
class Entry:
    """One figure that is asked for: a setting, scored by a protocol."""

    setting: Setting
    protocol: str

    @property
    def key(self) -> str:
        """The entry as text, the same for equal entries."""
        return json.dumps({"protocol": self.protocol, "setting": json.loads(self.setting.key)})

    @classmethod
    def from_key(cls, key: str) -> Entry:
        """The inverse of `key`."""
        values = json.loads(key)
        setting: dict[str, Any] = values["setting"]
        for name in {"feature_strides", "attention_strides"} & setting.keys():
            setting[name] = tuple(setting[name])
        return cls(Setting(**setting), values["protocol"])


@dataclass
class Clock:
    """Seconds of the two sides that overlap."""

    looking: float = 0.0
    scoring: float = 0.0
    pictures: int = 0


@dataclass
class Evaluation:
    """One data set, one bundle, every entry.

    Attributes:
        dataset: what is segmented.
        network: the loaded bundle.
        entries: what is scored.
        store: where counts go; what it already has is not done again.
        train: the split that fitted methods learn prototypes from, if any is asked for.
        boundaries: also count the boundaries of classes, for boundary IoU.
        on_error: whether a picture that cannot be read is noted and skipped, or ends it all.
    """

    dataset: Dataset
    network: Network
    entries: Sequence[Entry]
    store: Store
    train: Dataset | None = None
    boundaries: bool = False
    on_error: Literal["skip", "fail"] = "skip"
    clock: Clock = field(default_factory=Clock)

    def run(self, indices: Sequence[int], progress: Progress) -> None:
        """Score the pictures at `indices` that are not scored yet.

        Raises:
            DatasetError: a picture cannot be read and `on_error` is "fail".
        """
        fitted = self._fit(progress)
        keys = {entry.key for entry in self.entries}
        done = self.store.done({e.key for e in self.entries if self._has_boundaries(e)})
        left = [i for i in indices if keys - done.get(self.dataset.ids[i], set())]
        bar = progress.add_task(self.dataset.name, total=len(indices))
        progress.update(bar, completed=len(indices) - len(left))

        def work(index: int, sample: Sample) -> dict[Entry, tuple[NDArray[np.uint8], Labels]]:
            start = time.perf_counter()
            found = self._label(sample, fitted, done.get(sample.id, set()))
            self.clock.looking += time.perf_counter() - start
            return found

        def finish(index: int, outcome: Any) -> None:
            start = time.perf_counter()
            self._keep(index, outcome)
            self.clock.scoring += time.perf_counter() - start
            self.clock.pictures += 1
            progress.advance(bar)

        overlap(left, self.dataset.load, work, finish)

    def _label(
        self, sample: Sample, fitted: Mapping[str, Any], done: set[str]
    ) -> dict[Entry, tuple[NDArray[np.uint8], Labels]]:
        """(truth, labels) of every entry that is not done."""
        looks: dict[int | None, tuple[Look, NDArray[np.uint8]]] = {}
        labelled: dict[tuple[int | None, Setting], Labels] = {}
        found = {}
        with self.network.device.active():
            for entry in self.entries:
                if entry.key in done:
                    continue
                protocol, setting = PROTOCOLS[entry.protocol], entry.setting
                if protocol.crop not in looks:
                    image, truth = protocol.prepare(sample.image, sample.truth)
                    looks[protocol.crop] = Look(self.network, image), truth
                look, truth = looks[protocol.crop]
                if (protocol.crop, setting) not in labelled:
                    task = Task(look, setting, self.dataset.classes, truth, fitted.get(setting.key))
                    labelled[protocol.crop, setting] = label(task)
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

    def _fit(self, progress: Progress) -> dict[str, list[NDArray[np.float32]]]:
        """The prototypes of every setting whose method needs them, from the training split."""
        wanted = {
            entry.setting.key: entry.setting
            for entry in self.entries
            if METHODS[entry.setting.method].fitted
        }
        known = {key: self.store.fitted(key) for key in wanted}
        fitted = {key: levels for key, levels in known.items() if levels is not None}
        missing = {key: setting for key, setting in wanted.items() if key not in fitted}
        if not missing:
            return fitted
        if self.train is None:
            raise DatasetError("prototypes-gt needs a training split; give --train-root")
        sums = {key: GroundTruth(len(self.dataset.classes)) for key in missing}
        bar = progress.add_task(f"{self.train.name}, training split", total=len(self.train))
        for index in range(len(self.train)):
            sample = self.train.load(index)
            with self.network.device.active():
                look = Look(self.network, sample.image)
                for key, setting in missing.items():
                    sums[key].add(look, setting, sample.truth)
            progress.advance(bar)
        for key, total in sums.items():
            fitted[key] = total.prototypes()
            self.store.add_fitted(key, fitted[key])
        return fitted


def label(task: Task) -> Labels:
    """One picture by one setting, on the host: (H, W) class indices, or segment numbers."""
    method = METHODS[task.setting.method]
    (labels,) = task.look.network.device.download(method.run(task))()
    return np.array(task.prompted)[labels] if method.kind == "named" else labels


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
        raise DatasetError(f"--shard is {text!r}, expected i/n with 1 ≤ i ≤ n, as in 2/8")
    return list(range(int(index) - 1, total, int(of)))
