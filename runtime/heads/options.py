"""A head's options, each declared once: its default, its range and its meaning.

The command line, a bundle's recommendations, the evaluation's keys, the JSON record and the docs
are all made from the declaration.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, TypeGuard, cast

import numpy as np

from ..errors import MdrtError

Value: TypeAlias = str | int | float | bool | tuple[int, ...] | None
Strides: TypeAlias = tuple[int, ...] | None
"""Image pixels per cell of the bundle's taps that are read; None reads all."""
Refine: TypeAlias = Literal["none", "guided", "pamr"]
"""What makes boundaries follow the picture's edges: nothing, the guided filter, or PAMR."""

COMPLEMENT: Final = (3 - 5**0.5) / 2
"""0.382: from 0 to there, (1 − score)² is above the score."""

_KEY: Final = "mdrt"
_WORDS: Final = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


def option(
    default: Value,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    goes_with: str = "",
) -> Any:
    """A field of a head's options; its type is the field's annotation.

    Args:
        default: the paper's, or the published code's.
        help: what it does, in a sentence.
        least, most: ends of its range that belong to it.
        above, below: ends that do not.
        goes_with: another option; what a bundle recommends holds only with the value of that one
            which it recommends too.
    """
    bounds = {"help": help, "least": least, "most": most, "above": above, "below": below}
    return field(default=default, metadata={_KEY: bounds | {"goes_with": goes_with}})


@dataclass(frozen=True)
class Declared:
    """One option, as it was declared."""

    name: str
    type: Literal["choice", "yes/no", "whole number", "number", "strides"]
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    goes_with: str = ""

    @property
    def range(self) -> str:
        """What it may be, for people."""
        if self.type == "choice":
            return ", ".join(self.choices)
        if self.type == "yes/no":
            return "yes or no"
        if self.type == "strides":
            return "all, or strides of the bundle as 64,32"
        low = "" if self.least is None else f"{self.least:g}"
        low = low if self.above is None else f"above {self.above:g}"
        high = "" if self.most is None else f" to {self.most:g}"
        high = high if self.below is None else f" to below {self.below:g}"
        return f"{self.type} {'from ' if self.least is not None else ''}{low}{high}".strip()

    def check(self, value: object) -> Value:
        """The value in its own type.

        Raises:
            MdrtError: it is of another type or outside the range.
        """
        found: Value = None
        if self.type == "choice" and value in self.choices:
            found = str(value)
        elif self.type == "yes/no" and isinstance(value, bool | np.bool_):
            found = bool(value)
        elif self.type == "strides":
            if value is None:
                return None
            if isinstance(value, list | tuple) and value and all(type(n) is int for n in value):
                found = tuple(sorted({int(n) for n in value}, reverse=True))
        elif self.type in ("number", "whole number") and _is_number(value):
            whole = self.type == "whole number"
            with suppress(OverflowError):  # an integer beyond every float
                number = float(value)
                if self._inside(number) and (not whole or number == int(number)):
                    found = int(number) if whole else number
        if found is None:
            raise MdrtError(f"{self.name} is {value!r}, expected {self._expected}")
        return found

    def parse(self, text: str) -> Value:
        """The value that a text stands for.

        Raises:
            MdrtError: it stands for none.
        """
        text = text.strip()
        value: Value
        try:
            if self.type == "choice":
                value = text
            elif self.type == "yes/no":
                value = _WORDS[text.lower()]
            elif self.type == "strides":
                return (
                    None if text == "all" else self.check([int(part) for part in text.split(",")])
                )
            else:
                value = int(text) if self.type == "whole number" else float(text)
        except (ValueError, KeyError):
            raise MdrtError(f"{self.name} is {text!r}, expected {self._expected}") from None
        return self.check(value)

    def shown(self, value: Value) -> str:
        """A value as `parse` takes it."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        if value is None:
            return "all"
        return f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def _expected(self) -> str:
        return ("one of " if self.type == "choice" else "") + self.range

    def _inside(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


@dataclass(frozen=True)
class HeadOptions:
    """What every head has. Each value is checked when options are made.

    Raises:
        MdrtError: a value is of another type or outside its range.
    """

    timestep: int = option(
        0,
        "noise level that the network sees the picture at, an index into the schedule; 0 is the "
        "paper's t = 1",
        least=0,
    )
    refine: Refine = option(
        "none",
        "let boundaries follow the picture's edges, for which the network's cells are too coarse: "
        "guided filters the scores at full resolution, pamr spreads them among cells of one "
        "colour, on a grid four times as fine as the network's",
    )
    mirror: bool = option(
        False,
        "average all that is read with what the network sees of the picture mirrored, left for "
        "right; twice the time",
    )
    background: Literal["none", "constant", "complement"] = option(
        "none",
        "what a pixel is that no name fits well. none: the best of the names (one of them may be a "
        "background: --background); constant: void, label 255, where the winning score is below "
        "threshold; complement: void where the squared complement (1 − score)² is higher, which of "
        "maps in [0, 1] is a score below 0.382 (iSeg's rule)",
    )
    threshold: float = option(
        0.0,
        "of background constant, which it stands for: pixels whose winning score is below this "
        "belong to none of the classes; 0 leaves out none. What scores are worth, a record's "
        "confidences tell",
        least=0,
    )

    def __post_init__(self) -> None:
        for declaration in declared(type(self)):
            value = declaration.check(getattr(self, declaration.name))
            object.__setattr__(self, declaration.name, value)
        if self.threshold and self.background == "none":
            object.__setattr__(self, "background", "constant")
        if (self.background == "constant") != bool(self.threshold):
            wanted = "above 0" if self.background == "constant" else "0: the rule has its own"
            raise MdrtError(
                f"threshold is {self.threshold:g} with background {self.background}, expected "
                f"{wanted}"
            )

    @property
    def void_below(self) -> float:
        """The winning score below which a pixel is of no class; 0 where none is."""
        return COMPLEMENT if self.background == "complement" else self.threshold


_known: dict[type[HeadOptions], tuple[Declared, ...]] = {}
"""What `declared` found before: it is asked for every picture."""


def declared(options: type[HeadOptions]) -> tuple[Declared, ...]:
    """The options of a head, in the order of their declaration."""
    if options not in _known:
        _known[options] = _declared(options)
    return _known[options]


def _declared(options: type[HeadOptions]) -> tuple[Declared, ...]:
    hints = typing.get_type_hints(options)
    found = []
    for entry in fields(options):
        hint = hints[entry.name]
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        kinds = {bool: "yes/no", int: "whole number", float: "number"}
        kind: Any = "choice" if choices else kinds.get(hint, "strides")
        found.append(
            Declared(
                entry.name,
                kind,
                cast("Value", entry.default),
                choices=choices,
                **entry.metadata[_KEY],
            )
        )
    return tuple(found)


def complete(
    options: type[HeadOptions], recommended: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A value for every option: what was given, else what is recommended, else the default."""
    values: dict[str, Any] = {}
    for declaration in sorted(declared(options), key=lambda d: bool(d.goes_with)):
        name, other = declaration.name, declaration.goes_with
        values[name] = declaration.default
        holds = not other or values[other] == recommended.get(other, values[other])
        if name in given:
            values[name] = given[name]
        elif name in recommended and holds:
            values[name] = recommended[name]
    return values
