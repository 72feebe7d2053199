"""What a format is told of a run and of a picture, and what it makes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

from ... import __version__
from ..pictures.output import printable
from ..pictures.palette import hexadecimal
from ..pictures.render import colours
from ..segmentation import Segmentation

Write: TypeAlias = Callable[[BinaryIO], object]
"""Writes a file that is open."""

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
"""What no line and no XML can hold."""


@dataclass(frozen=True)
class Run:
    """What all pictures of one run have in common.

    Attributes:
        names: of the classes, in the order of their labels; None of segments without names.
        background: the class left uncoloured.
        model, bundle: the model's name, and the digest of its bundle.
        settings: how pictures are read: the head, its every setting, `max_size` and, of unnamed
            heads, `segments`; as JSON gives them back.
    """

    names: tuple[str, ...] | None
    background: str | None
    model: str
    bundle: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings))))

    def named(self, count: int) -> tuple[str, ...]:
        """The names of `count` labels."""
        return tuple(f"segment {i + 1}" for i in range(count)) if self.names is None else self.names

    def classes(self, count: int) -> list[dict[str, Any]]:
        """Label, name and colour of each class; `count` of them where they have no names."""
        names = self.named(count)
        paint = colours(names, self.background)
        return [
            {"label": label, "name": name, "colour": hexadecimal(paint[label])}
            for label, name in enumerate(names)
        ]

    def describe(self, count: int = 0) -> dict[str, Any]:
        """What made a run, for those who read its files; `count` as for `classes`."""
        return {
            "versions": {"mdrt": __version__},
            "model": self.model,
            "bundle": self.bundle,
            "background": self.background,
            "classes": self.classes(count),
            "settings": dict(self.settings),
        }

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether what `record` tells of, a picture's or a run's, was made by such a run."""
        if self.names not in (None, tuple(entry["name"] for entry in record["classes"])):
            return False
        settings = record["settings"]
        same = all(settings.get(name, ...) == value for name, value in self.settings.items())
        return same and [record["background"], record["bundle"]] == [self.background, self.bundle]


@dataclass(frozen=True)
class Picture:
    """A picture of a run, as formats name it.

    Attributes:
        key: names what is written of it: a path without suffix, parted by "/", that no other
            picture of the run has and every tool can read.
        file: its own path, as labelling tools know it: relative to the folder it was found in.
        source: where it is; None where that is not known.
    """

    key: str
    file: str
    source: Path | None = None


def name_pictures(
    targets: Mapping[Path, Path], out: Path, places: Mapping[Path, Path]
) -> dict[Path, Picture]:
    """Every picture's names in formats.

    Args:
        targets: each picture with what its label map in `out` would be called, without suffix.
        out: the folder of all results.
        places: each picture with its folder, relative to the one that it was found in.
    """
    keys: set[str] = set()
    files: set[str] = set()
    named = {}
    for path, target in targets.items():
        key = own_key(printable(target.relative_to(out).as_posix()), keys)
        file = printable((places[path] / path.name).as_posix())
        if file in files:
            file = printable(path)
        files.add(file)
        named[path] = Picture(key, file, path)
    return named


def own_key(name: str, keys: set[str]) -> str:
    """A key, see `Picture`, that is none of `keys`; it is one of them from here on."""
    plain = CONTROL.sub("_", name)
    key, number = plain, 1
    while key.lower() in keys:  # file systems that take "A" for "a" would lose one
        number += 1
        key = f"{plain}-{number}"
    keys.add(key.lower())
    return key


@dataclass(frozen=True)
class Piece:
    """What a format makes of one picture.

    Attributes:
        files: by their paths under the format's folder, parted by "/".
        entry: what the files of the run need of it, for JSON.
    """

    files: Mapping[str, Write] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One picture of a run, as it is remembered until the run ends.

    Attributes:
        key, file: the picture's, see `Picture`.
        size: (height, width).
        classes: how many labels it may have.
        entry: what the format remembers of it.
    """

    key: str
    file: str
    size: tuple[int, int]
    classes: int
    entry: Mapping[str, Any]


class Format(Protocol):
    """How labels are written: one file of this package each."""

    @property
    def scores(self) -> bool:
        """Whether it needs the scores of all classes."""

    def check(self, run: Run) -> None:
        """See that it can hold what a run makes.

        Raises:
            OutputError: it cannot.
        """

    def piece(self, result: Segmentation, picture: Picture, run: Run) -> Piece:
        """One picture."""

    def index(self, lines: Iterable[Line], run: Run, count: int) -> Mapping[str, Iterator[str]]:
        """The files of the run, by their paths under the format's folder, as text in pieces.

        Args:
            lines: its pictures, in order; may be gone through more than once, and holds none.
            run: what they have in common.
            count: of labels that any of them may have.
        """


def dumps(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_list(values: Iterable[Any]) -> Iterator[str]:
    """A JSON list, one value a line, held one at a time."""
    yield "["
    comma = "\n"
    for value in values:
        yield comma + dumps(value)
        comma = ",\n"
    yield "\n]"


def json_object(members: Mapping[str, Any | Iterator[str]]) -> Iterator[str]:
    """A JSON object; members that are iterators are text in pieces, as of `json_list`."""
    comma = "{\n"
    for name, value in members.items():
        yield f"{comma}{dumps(name)}: "
        if isinstance(value, Iterator):
            yield from value
        else:
            yield dumps(value)
        comma = ",\n"
    yield "\n}\n"


def rgb(colour: str) -> Sequence[int]:
    """The three values of #rrggbb."""
    return list(bytes.fromhex(colour.removeprefix("#")))
