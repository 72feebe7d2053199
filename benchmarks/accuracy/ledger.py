"""What a figure is of. Two figures compare, and add up over shards, where their ledgers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, Final, Self

from ...runtime.errors import MdrtError
from .background import BACKGROUND, background_of
from .protocols import PROTOCOLS
from .settings import Entry, find_head
from .store import Store

EVALUATED_SPLIT: Final = "the evaluated split"
"""What a protocol that reports the best of several values chooses it on."""

NOT_SAID: Final = "not said"


@dataclass(frozen=True)
class Ledger:
    """Everything that a figure depends on and a reader cannot see in it.

    Attributes:
        dataset, split: as `mdrt eval` names them.
        pictures: how many were scored.
        protocol: its id.
        label_size: where labels are compared: of every pixel, or of fewer.
        average: "data set": one confusion matrix; "mean over pictures": of each one's mIoU.
        head: its name.
        settings: what of it is not the default.
        classes: in the prompt: "all", "present" (from the ground truth), "predicted", or "none".
        segments: how many an unnamed head was told to find: "present" (from the ground truth),
            "auto", a number; "" of a named head.
        background: what a pixel is that no name fits: "none", "class background" (one of the data
            set's names), "threshold" or "squared complement" (void), or "threshold for class
            background".
        threshold: of that rule, None without one.
        chosen_on: what the threshold was chosen on, "" without one.
        bundle: SHA-256 over its every file.
    """

    dataset: str
    split: str
    pictures: int
    protocol: str
    label_size: str
    average: str
    head: str
    settings: str
    classes: str
    segments: str
    background: str
    threshold: float | None
    chosen_on: str
    bundle: str

    @classmethod
    def of(
        cls, meta: Mapping[str, Any], entry: Entry, pictures: int, best: float | None = None
    ) -> Self:
        """The ledger of an entry's figure.

        Args:
            meta: of the results file.
            entry: what was scored.
            pictures: how many.
            best: the value that the protocol chose, if it chooses one.
        """
        setting, protocol = entry.setting, PROTOCOLS[entry.protocol]
        named, threshold = setting.kind == "named", setting.options.void_below or None
        complement = setting.options.background == "complement"
        rule = {"constant": "threshold", "complement": "squared complement"}.get(
            setting.options.background, "none"
        )
        chosen_on = "" if threshold is None or complement else meta.get("chosen_on", NOT_SAID)
        if protocol.sweep is not None:
            word = "offset" if protocol.sweep.own else "threshold"
            rule, threshold = f"{word} for class {BACKGROUND}", best
            chosen_on = EVALUATED_SPLIT
        elif background_of(meta["classes"]) is not None and named:
            extra = "" if rule == "none" else f", {rule}"
            rule = f"class {BACKGROUND}{extra}"
        return cls(
            meta["dataset"],
            meta["split"],
            pictures,
            protocol.id,
            protocol.label_size,
            protocol.average,
            setting.head,
            setting.words,
            setting.prompt_classes if named else "none",
            "" if named else str(setting.segments) if find_head(setting.head).counts else "auto",
            rule,
            threshold,
            chosen_on,
            meta["bundle"],
        )

    @property
    def words(self) -> dict[str, str]:
        """What stands below a table, by its name there; rows and titles have the rest."""
        threshold = "none" if self.threshold is None else f"{self.threshold:g}"
        return {
            "data set": self.dataset,
            "split": self.split,
            "labels scored at": self.label_size,
            "averaging": self.average,
            "classes in the prompt": self.classes,
            **({"segments told": self.segments} if self.segments else {}),
            "background": self.background,
            "threshold": threshold + (f", chosen on {self.chosen_on}" if self.chosen_on else ""),
            "bundle": self.bundle[:12],
        }


def told(ledgers: Sequence[Ledger]) -> list[str]:
    """The ledgers of a table's rows, in lines: what all share in one, then each fact that
    differs, with the rows that it is of, counted from 1."""
    every = [ledger.words for ledger in ledgers]
    shared, differing = [], []
    for name in dict.fromkeys(name for words in every for name in words):
        rows: dict[str, list[str]] = {}
        for place, words in enumerate(every, 1):
            rows.setdefault(words.get(name, "none"), []).append(f"{place}")
        if len(rows) == 1:
            shared.append(f"{name} {next(iter(rows))}")
        else:
            values = (
                f"{value} (row{'s' * (len(places) > 1)} {', '.join(places)})"
                for value, places in rows.items()
            )
            differing.append(f"{name}: {'; '.join(values)}")
    return ["; ".join(shared), *differing]


def check_alike(stores: Sequence[Store]) -> None:
    """See that results are parts of one evaluation: every ledger in one is in all of them.

    Raises:
        MdrtError: they are not; it names what differs.
    """
    of = {
        store.path: {Ledger.of(store.meta, Entry.from_key(key), 0) for key in store.settings()}
        for store in stores
    }
    for one, other in permutations(of, 2):
        for ledger in sorted(of[one] - of[other], key=repr):
            raise MdrtError(
                f"{one} has figures {_unlike(ledger, of[other])} {other}; only shards of one "
                "evaluation can be merged: evaluate the same in each"
            )


def _unlike(ledger: Ledger, others: set[Ledger]) -> str:
    """What a ledger has that the nearest of others has not, as "with split 'val' and not 'train'
    as in"; of no other, what it is of."""
    if not others:
        return f"of head {ledger.head}, and there are none in"

    def differing(other: Ledger) -> dict[str, tuple[Any, Any]]:
        theirs = asdict(other)
        found = {k: (v, theirs[k]) for k, v in asdict(ledger).items() if v != theirs[k]}
        return dict(sorted(found.items(), key=lambda pair: pair[0] == "settings"))  # says the least

    name, (own, their) = next(iter(differing(min(others, key=lambda o: len(differing(o)))).items()))
    return f"with {name.replace('_', ' ')} {own!r} and not {their!r} as in"
