"""What a head is: one way to read a look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias

from ...kernels import Array, Grid
from ..bundle.contract import Manifest
from ..errors import MdrtError
from ..look.taps import Taps
from ..look.words import EncodedText
from .options import HeadOptions, Value, complete, declared

Asked: TypeAlias = EncodedText | int | Literal["auto"]
"""Names, of a named head; how many segments, of an unnamed one."""

Tap: TypeAlias = Literal["features", "logits", "joint", "values", "self_attention", "aligned"]

TAPS: Final[Mapping[Tap, str]] = {
    "features": "features",
    "logits": "cross-attention logits",
    "joint": "joint attention's logits",
    "values": "values of cross-attention",
    "self_attention": "self-attention",
    "aligned": "maps in the space of its words",
}
"""What a bundle may give out for heads to read, in words."""


def taps(manifest: Manifest) -> dict[Tap, Sequence[Any]]:
    """What a bundle gives out of every tap; empty for nothing."""
    return {
        "features": manifest.features,
        "logits": manifest.attention,
        "joint": [layer for layer in manifest.attention if layer.joint],
        "values": manifest.with_values,
        "self_attention": manifest.self_attention,
        "aligned": manifest.aligned,
    }


@dataclass(frozen=True)
class Reading:
    """What a head makes of a look, on the network's own cells; pixels come later.

    Attributes:
        scores: (classes, h_l, w_l) float32 a level; resized and summed, the largest wins (Eq. 6).
        weights: the map of every class that its prototype was averaged with, or its score itself.
        features: what the scores are inner products with: divided by their norm they are cosines.
            Empty where scores stand for themselves.
        maps: class maps that have a share in the scores.
        attention: that share, in [0, 1].
        absent: (classes,) bool, classes that win nowhere; None for none.
    """

    scores: Sequence[Grid]
    weights: Grid
    features: Sequence[Grid] = ()
    maps: Grid | None = None
    attention: float = 0.0
    absent: Array | None = None


@dataclass(frozen=True)
class Head:
    """One way to read a look.

    Attributes:
        name: as it is asked for.
        kind: "named" gives a score for every name, "unnamed" finds segments.
        help: what it does, in a line.
        good_for: when to take it, in a line.
        options: its options, all with defaults; see `option`.
        taps: what it reads of a look.
        read: the method itself.
        counts: of an unnamed head, whether it can be told how many segments to find.
        wordless: whether with its options it reads a pass that the empty prompt drives.
        sentences: what it reads every name in by itself, {} in its place; None where all names are
            one prompt.
    """

    name: str
    kind: Literal["named", "unnamed"]
    help: str
    good_for: str
    options: type[HeadOptions]
    taps: tuple[Tap, ...]
    read: Callable[[Taps, Any, Any], Reading]
    counts: bool = True
    wordless: Callable[[Any], bool] = lambda options: True
    sentences: Callable[[Any], Sequence[str]] | None = None

    def lacks(self, manifest: Manifest) -> str:
        """The tap that it needs and a bundle does not give out; "" if there is none."""
        given = taps(manifest)
        return next((TAPS[tap] for tap in self.taps if not given[tap]), "")

    def offered(self, manifest: Manifest) -> bool:
        """Whether a bundle gives out every tap that it needs."""
        return not self.lacks(manifest)

    def check_count(self, count: int | Literal["auto"]) -> None:
        """See that it can be told to find so many segments.

        Raises:
            MdrtError: it finds by itself how many there are.
        """
        if not self.counts and count != "auto":
            raise MdrtError(
                f"segments is {count}, and head {self.name} finds how many there are; "
                "give segments auto"
            )

    def settle(self, recommended: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
        """Options, complete: what was given, else what is recommended, else the default.

        Raises:
            MdrtError: an option that it does not have, or a value outside its range.
        """
        check_names(self, recommended)
        check_names(self, given)
        return self.options(**complete(self.options, recommended, given))


def check_names(head: Head, settings: Mapping[str, Any]) -> None:
    """See that a head has every option that is named.

    Raises:
        MdrtError: it has not.
    """
    known = [declaration.name for declaration in declared(head.options)]
    for name in settings:
        if name not in known:
            nearest = did_you_mean(name, known)
            raise MdrtError(
                f"head {head.name} has no setting {name}; it has {', '.join(known)}{nearest}"
            )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message that names what may be meant; "" where nothing is near."""
    nearest = get_close_matches(name, list(known), 1, 0.7)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def parse(head: Head, texts: Mapping[str, str]) -> dict[str, Value]:
    """The values of a head's options that texts stand for, by name.

    Raises:
        MdrtError: an option that it does not have, or a value outside its range.
    """
    check_names(head, texts)
    by_name = {declaration.name: declaration for declaration in declared(head.options)}
    return {name: by_name[name].parse(text) for name, text in texts.items()}
