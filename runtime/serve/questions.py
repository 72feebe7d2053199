"""What a caller asks of a picture, checked before any picture waits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..errors import MdrtError
from ..heads import Head, find_head, parse
from ..look.prompts import ClassName, shown_names, synonyms
from ..segmentation import Segmentation
from ..segmenter import Look, Segmenter
from .limits import Limits
from .problems import bad, too_large

KEYS: Final = (
    "classes",
    "segments",
    "head",
    "settings",
    "background",
    "max_size",
    "format",
    "view",
)
"""What may be said beside the picture."""

MOST_VIEW: Final = 4096


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        classes: names, of a named head; None of another.
        segments: how many, of an unnamed head.
        head, settings: how the picture is read, every setting given.
        background: the class left uncoloured.
        max_size: pixels of the longer side that the network sees.
        format: of the answer.
        view: pixels of the longer side of a map for screens beside the record; None for no map.
    """

    classes: tuple[ClassName, ...] | None
    segments: int | Literal["auto"]
    head: Head
    settings: Mapping[str, Any]
    background: str | None
    max_size: int
    format: str
    view: int | None

    def ask(self, look: Look, scores: bool = False) -> Segmentation:
        """The answer of a look."""
        if self.classes is None:
            return look.segments(self.segments, self.head, scores=scores, **self.settings)
        return look.segment(self.classes, self.head, scores=scores, **self.settings)


def question(
    fields: Mapping[str, Any], segmenter: Segmenter, limits: Limits, formats: Sequence[str]
) -> Question:
    """The question that fields of JSON or of a form make.

    Raises:
        Problem: a field is none, or of another form, or beyond a limit.
        MdrtError: the head is none, or a setting is wrong.
    """
    fields = {name: value for name, value in fields.items() if value not in (None, "")}
    for name in fields:
        if name not in KEYS:
            raise bad(f"field {name[:40]!r} is none of {', '.join(KEYS)}")
    asked = fields.get("head")
    if asked is None:
        asked = "spectral" if "segments" in fields and "classes" not in fields else "maskdiffusion"
    if not isinstance(asked, str):
        raise bad(f"head is {type(asked).__name__}, expected the name of one")
    head = find_head(asked)
    classes = _classes(fields.get("classes"), head, segmenter, limits)
    background = fields.get("background")
    if background is not None and background not in shown_names(classes or ()):
        raise bad(f"background is {background!r}, expected one of the classes")
    if "segments" in fields and classes is not None:
        raise bad("classes and segments were both given; give names, or how many without names")
    settings = _settings(fields.get("settings", {}), head)
    options = vars(segmenter.settle(head, **settings))
    chosen = fields.get("format", "json")
    if chosen not in formats:
        raise bad(f"format is {chosen!r}, expected one of {', '.join(formats)}")
    view = fields.get("view")
    return Question(
        classes,
        _count(fields.get("segments", "auto")),
        head,
        options,
        background,
        _whole("max_size", fields.get("max_size", limits.max_size), 1, limits.max_size),
        chosen,
        None if view is None else _whole("view", view, 16, MOST_VIEW),
    )


def _classes(
    given: Any, head: Head, segmenter: Segmenter, limits: Limits
) -> tuple[ClassName, ...] | None:
    if head.kind == "unnamed":
        if given is not None:
            raise MdrtError(f"head {head.name} takes no names; leave classes out")
        return None
    if given is None:
        if not segmenter.manifest.classes:
            raise bad('no classes; give names, as ["sky", "grass"]')
        return tuple(segmenter.manifest.classes)
    if isinstance(given, str):
        given = _json("classes", given) if given.lstrip().startswith("[") else given.split(",")
    if not isinstance(given, list | tuple):
        raise bad(f"classes is {type(given).__name__}, expected names")
    classes: list[ClassName] = []
    for entry in given:
        names = entry if isinstance(entry, list | tuple) else [entry]
        if not names or not all(isinstance(name, str) for name in names):
            raise bad(f"a class is {str(entry)[:40]!r}, expected a name, or a list of synonyms")
        names = [name.strip() for name in names]
        for name in names:
            if len(name) > limits.characters:
                raise too_large(
                    f"the name {name[:40]!r}… has {len(name)} characters, and at most "
                    f"{limits.characters} are taken here"
                )
        classes.append(names[0] if len(names) == 1 else tuple(names))
    count = sum(len(synonyms(entry)) for entry in classes)
    if count > limits.names:
        raise too_large(f"{count} names were given, and at most {limits.names} are taken here")
    return tuple(classes)


def _settings(given: Any, head: Head) -> Mapping[str, Any]:
    if isinstance(given, str):
        given = _json("settings", given)
    if not isinstance(given, Mapping):
        raise bad(f"settings is {type(given).__name__}, expected an object of names and values")
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    return {**given, **parse(head, texts)}


def _count(given: Any) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    return _whole("segments", given, 1, None)


def _whole(name: str, given: Any, least: int, most: int | None) -> int:
    span = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    number = None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    elif isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10:
        number = int(given)
    if number is None or number < least or (most is not None and number > most):
        raise bad(f"{name} is {str(given)[:40]!r}, expected {span}")
    return number


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise bad(f"{name} is no JSON: {text[:40]!r}") from None
