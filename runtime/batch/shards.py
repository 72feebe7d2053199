"""The work of a batch: pictures in shards, each done by one worker and there as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MdrtError
from ..limits import within_memory
from ..look.prompts import ClassName
from ..overlap import ahead
from ..pictures.images import read_image
from ..pictures.output import printable
from ..segmentation import Segmentation
from ..segmenter import Count, Segmenter
from ..sessions.device import Host
from ..writers import find_format
from ..writers.base import Picture, Run, own_key
from ..writers.folder import Folder
from .sources import Item, read_item
from .stores import MANIFEST, Store


@dataclass(frozen=True)
class Shard:
    """Pictures that are written together.

    Attributes:
        name: says which they are: the same pictures have the same, whatever else there is.
        items: they.
    """

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Job:
    """What every worker is told: how to load the model, what to ask, where to write.

    Attributes:
        engine: bundle; None for the embedded model.
        loading: other arguments of `Segmenter`.
        classes, segments, head, max_size, settings: of a question, as for `Segmenter`.
        formats: names of them, without "png".
        run: what all pictures have in common.
        store: the output.
    """

    engine: Path | None
    loading: Mapping[str, Any]
    classes: Sequence[ClassName] | None
    segments: Count | None
    head: str
    max_size: int | None
    settings: Mapping[str, Any]
    formats: tuple[str, ...]
    run: Run
    store: Store


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Attributes:
        name: of the shard.
        done: how many pictures are written.
        errors: those that are not: name and what was wrong.
    """

    name: str
    done: int
    errors: dict[str, str] = field(default_factory=dict)


def plan(items: Iterable[Item], size: int, done: set[str]) -> Iterator[Shard]:
    """Shards of what is not done, in the order of the items; of `size` pictures, those that are
    done counted, so that a rerun has the shards that the first run would have had."""
    walk, number = iter(items), 0
    while chunk := tuple(islice(walk, size)):
        missing = tuple(item for item in chunk if item.name not in done)
        if missing:
            names = "\n".join(item.name for item in missing)
            digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
            yield Shard(f"{number:06d}-{digest[:8]}", missing)
        number += 1


def finished(store: Store) -> set[str]:
    """The names of all pictures that whole shards hold; of those that failed, none."""
    found: set[str] = set()
    for name in store.shards():
        manifest = store.read(f"shards/{name}/{MANIFEST}")
        if manifest is not None:
            found.update(picture["file"] for picture in manifest["pictures"])
    return found


class Worker:
    """Loads the model once, then does shard after shard."""

    def __init__(self, job: Job, segmenter: Segmenter | None = None) -> None:
        """Load the model, or take a segmenter that has it."""
        self.job = job
        self.segmenter = segmenter or Segmenter(job.engine, **job.loading)
        self._scores = any(find_format(name).scores for name in job.formats)

    def __call__(self, shard: Shard) -> Outcome:
        """Do one shard; what is wrong with a picture is told of, and the others go on.

        Raises:
            OutputError: the output cannot be written.
        """
        errors: dict[str, str] = {}
        pictures: list[dict[str, str]] = []
        # as for `mdrt segment`: a GPU's driver maps far more than it takes
        limited = isinstance(self.segmenter.network.device, Host)
        with (
            within_memory() if limited else nullcontext(),
            self.job.store.aside(shard.name) as folder,
        ):
            for name, key, error in self._write(shard, folder):
                if error is None:
                    pictures.append({"key": key, "file": name})
                else:
                    errors[name] = error
            if pictures:
                Store(str(folder)).write(MANIFEST, {"pictures": pictures})
                self.job.store.place(folder, shard.name)
        return Outcome(shard.name, len(pictures), errors)

    def _write(self, shard: Shard, folder: Path) -> Iterator[tuple[str, str, str | None]]:
        """Write every picture in every format; yields its name, its key, and what was wrong."""
        keys: set[str] = set()
        with ExitStack() as stack:
            folders = []
            for name in self.job.formats:
                folders.append(Folder(folder / name, find_format(name), self.job.run))
                stack.callback(folders[-1].close)
            for item, arrived in ahead(shard.items, _read):
                shown = printable(item.name)
                try:
                    source, pixels = arrived.result()
                    result = self._segment(pixels, shown)
                except Exception as error:  # one picture's surprise must not cost the others
                    yield item.name, "", _line(error)
                    continue
                key = own_key(PurePosixPath(shown.lstrip("/")).with_suffix("").as_posix(), keys)
                for one in folders:
                    one.write(result, Picture(key, shown, source))
                yield item.name, key, None

    def _segment(self, pixels: NDArray[np.uint8], source: str) -> Segmentation:
        job = self.job
        look = self.segmenter.look(pixels, max_size=job.max_size, source=source)
        if job.classes is None:
            count = job.segments or "auto"
            return look.segments(count, job.head, scores=self._scores, **job.settings)
        return look.segment(job.classes, job.head, scores=self._scores, **job.settings)


def _read(item: Item) -> tuple[Path | None, NDArray[np.uint8]]:
    found = read_item(item)
    return (found if isinstance(found, Path) else None), read_image(found)


def _line(error: Exception) -> str:
    if isinstance(error, MdrtError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
