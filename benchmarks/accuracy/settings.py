"""What is scored: a head with its every option, and what an evaluation adds to it."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self, TypeAlias

from ...runtime.heads import HEADS as RUNTIME_HEADS
from ...runtime.heads import Head, HeadOptions, declared, parse
from ...runtime.heads import find_head as find_among
from ...runtime.heads.base import check_names
from ...runtime.segmenter import Segmenter
from .prototypes_gt import PROTOTYPES_GT

HEADS: Final[Mapping[str, Head]] = ChainMap({PROTOTYPES_GT.name: PROTOTYPES_GT}, RUNTIME_HEADS)  # type: ignore[arg-type]
"""The runtime's heads, those added later too, and the evaluation's own."""

PromptClasses: TypeAlias = Literal["all", "present", "predicted"]

DEFAULT_PROTOCOLS: Final = {"named": "miou", "unnamed": "hungarian-image"}


def find_head(name: str) -> Head:
    """A head that can be scored.

    Raises:
        MdrtError: there is none of this name.
    """
    return find_among(name, HEADS)


def parse_for(heads: Collection[Head], texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The values of `--set` by head; each is of every head that has such an option.

    Raises:
        MdrtError: no head has it, or a value is outside its range.
    """
    known = {head.name: {option.name for option in declared(head.options)} for head in heads}
    for name in texts:
        if not any(name in names for names in known.values()):
            check_names(next(iter(heads)), texts)
    return {
        head.name: parse(head, {n: text for n, text in texts.items() if n in known[head.name]})
        for head in heads
    }


def settle(segmenter: Segmenter, head: Head, given: Mapping[str, Any]) -> HeadOptions:
    """A head's options, complete: what was given, else what the bundle recommends, else the
    default. Prototypes from ground truth take what it recommends to MaskDiffusion.

    Raises:
        MdrtError: an option that the head does not have, or a value outside its range.
    """
    if head is PROTOTYPES_GT:
        shared = {option.name for option in declared(head.options)}
        whole = vars(segmenter.settle("maskdiffusion")).items()
        given = {name: value for name, value in whole if name in shared} | {**given}
    options: HeadOptions = segmenter.settle(head, **given)
    return options


@dataclass(frozen=True)
class Setting:
    """One head and every choice that changes what it gives.

    Attributes:
        head: a key of `HEADS`.
        options: its own, complete.
        prompt_classes: in the prompt, of named heads: "all", "present" (those in the ground truth),
            or "predicted" (those that win in a first pass over all of them: no oracle).
        prompt_presence: of "predicted": the share of the attention's cells that a name must win.
        segments: of unnamed heads that can be told: "present" (as many as classes are present, as
            the paper takes from the ground truth), "auto" (found in the features), or a number.
        train: pictures of the training split, of fitted heads.
    """

    head: str
    options: HeadOptions
    prompt_classes: PromptClasses = "all"
    prompt_presence: float = 0.01
    segments: int | Literal["present", "auto"] = "present"
    train: int = 0

    @classmethod
    def of(cls, head: str, **values: Any) -> Self:
        """A setting of these values; options that are not among them are the head's defaults.

        Raises:
            MdrtError: there is no such head, or it has no such option or value.
        """
        own = {name: values.pop(name) for name in _OWN & values.keys()}
        return cls(head, find_head(head).settle({}, values), **own)

    @property
    def kind(self) -> Literal["named", "unnamed"]:
        return find_head(self.head).kind

    @property
    def fitted(self) -> bool:
        """Whether it needs prototypes from a training split."""
        return self.head == PROTOTYPES_GT.name

    @property
    def chosen(self) -> dict[str, Any]:
        """What differs from defaults; `of` makes the setting of it again. A choice that is added
        later thus leaves earlier results as they are."""
        options = declared(type(self.options))
        found: dict[str, tuple[Any, Any]] = {
            o.name: (getattr(self.options, o.name), o.default) for o in options
        }
        found |= {f.name: (getattr(self, f.name), f.default) for f in fields(self)[2:]}
        return {name: value for name, (value, default) in found.items() if value != default}

    @property
    def words(self) -> str:
        """What differs from defaults, for people; options as `--set` takes them."""
        options = {option.name: option for option in declared(type(self.options))}
        words = [
            f"{name}={options[name].shown(value)}"
            if name in options
            else f"{name.replace('_', ' ')} {value}"
            for name, value in self.chosen.items()
            if name != "train"
        ]
        return ", ".join(words) or "defaults"

    @property
    def key(self) -> str:
        """The setting as text, the same for equal settings."""
        return json.dumps({"head": self.head, **self.chosen}, sort_keys=True)


_OWN: Final = frozenset(field.name for field in fields(Setting)[2:])


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
    def from_key(cls, key: str) -> Self:
        """The inverse of `key`.

        Raises:
            MdrtError: the head or one of its options is gone.
        """
        values = json.loads(key)
        return cls(Setting.of(**values["setting"]), values["protocol"])
