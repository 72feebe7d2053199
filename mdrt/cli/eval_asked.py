"""What `mdrt eval run` and `compare` are asked for: which settings by which protocols."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import click

from ..benchmarks.accuracy.background import BACKGROUND, background_of
from ..benchmarks.accuracy.protocols import PROTOCOLS
from ..benchmarks.accuracy.settings import (
    DEFAULT_PROTOCOLS,
    Entry,
    PromptClasses,
    Setting,
    find_head,
    settle,
)
from ..runtime.bundle.contract import MOST_SEGMENTS
from ..runtime.heads import Head, parse
from .eval_run import EvaluationRun


@dataclass(frozen=True)
class Asked:
    """What is asked of every head.

    Attributes:
        segments: how many unnamed ones.
        prompt: what differs from a setting's defaults of the names in the prompt.
        protocols: ids; none for each head's default.
    """

    segments: int | Literal["present", "auto"]
    prompt: Mapping[str, Any]
    protocols: Sequence[str]

    @classmethod
    def of(
        cls,
        segments: str,
        prompt_classes: PromptClasses,
        prompt_presence: float | None,
        protocols: Sequence[str],
    ) -> Self:
        """From the command line's options.

        Raises:
            click.UsageError: two do not go together, or one is out of its range.
        """
        prompt: dict[str, Any] = {"prompt_classes": prompt_classes}
        if prompt_presence is not None:
            if prompt_classes != "predicted":
                raise click.UsageError(
                    "--prompt-presence is of --prompt-classes predicted; give that too"
                )
            prompt["prompt_presence"] = prompt_presence
        return cls(_segments(segments), prompt, list(dict.fromkeys(protocols)))

    def entries(
        self, run: EvaluationRun, heads: Sequence[tuple[Head, Mapping[str, Any]]]
    ) -> list[Entry]:
        """Every head, with the options given to it, by every protocol.

        Raises:
            click.UsageError: a protocol does not fit a head or the data set.
        """
        entries = []
        for head, given in heads:
            options = settle(run.segmenter, head, given)
            own: dict[str, Any] = {}
            if head.kind == "named":
                own |= self.prompt
            elif head.counts:
                own["segments"] = self.segments
            if Setting(head.name, options).fitted:
                own["train"] = run.train_limit
            setting = Setting(head.name, options, **own)
            for protocol in self.protocols or [DEFAULT_PROTOCOLS[head.kind]]:
                _check_fits(protocol, head, run.dataset.classes)
                entries.append(Entry(setting, protocol))
        return entries


def parse_head(text: str) -> tuple[Head, dict[str, Any]]:
    """The head and the options that NAME[:SETTING=VALUE,…] stands for; a value may hold commas.

    Raises:
        click.UsageError: it has another form.
        MdrtError: there is no such head, setting or value.
    """
    name, _, rest = text.partition(":")
    texts = {}
    for part in re.split(r",(?=\s*\w+\s*=)", rest) if rest else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise click.UsageError(
                f"--head {text}: expected NAME:SETTING=VALUE,…, as in attention:pooling=softmax"
            )
        texts[key] = value
    head = find_head(name.strip())
    return head, parse(head, texts)


def _check_fits(protocol: str, head: Head, classes: Sequence[Sequence[str]]) -> None:
    if head.kind == "unnamed" and PROTOCOLS[protocol].matching == "none":
        raise click.UsageError(
            f"--protocol {protocol} takes labels as classes, and {head.name} gives segments; "
            "choose of " + ", ".join(p for p in PROTOCOLS if p.startswith("hungarian"))
        )
    if PROTOCOLS[protocol].sweep is not None and background_of(classes) is None:
        raise click.UsageError(
            f"--protocol {protocol} is of data sets with a class {BACKGROUND}, as voc21, context60"
        )


def _segments(text: str) -> int | Literal["present", "auto"]:
    words: dict[str, Literal["present", "auto"]] = {"present": "present", "auto": "auto"}
    if text in words:
        return words[text]
    if not text.isdigit() or not 1 <= int(text) <= MOST_SEGMENTS:
        raise click.UsageError(
            f"--segments {text}: expected present, auto, or a number from 1 to {MOST_SEGMENTS}"
        )
    return int(text)
