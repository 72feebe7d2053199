"""Ways to read a look, one file and one line here each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from ..bundle.contract import Manifest
from ..errors import MdrtError
from .attention import ATTENTION
from .base import TAPS, Head, Reading, did_you_mean, parse, taps
from .diffseg import DIFFSEG
from .gem import GEM
from .goca import GOCA
from .kmeans import KMEANS
from .maskclip import MASKCLIP
from .maskdiffusion import MASKDIFFUSION
from .multicut import MULTICUT
from .ncut import NCUT
from .options import Declared, HeadOptions, declared, option
from .refined import REFINED
from .seg4diff import SEG4DIFF, SEG4DIFF_SEGMENTS
from .spectral import SPECTRAL

HEADS: Final[Mapping[str, Head]] = {
    head.name: head
    for head in (
        MASKDIFFUSION,
        ATTENTION,
        REFINED,
        GOCA,
        SEG4DIFF,
        MASKCLIP,
        GEM,
        SPECTRAL,
        KMEANS,
        NCUT,
        MULTICUT,
        DIFFSEG,
        SEG4DIFF_SEGMENTS,
    )
}
"""Every head by its name."""


def find_head(name: str | Head, heads: Mapping[str, Head] = HEADS) -> Head:
    """A head by its name, of those that there are.

    Raises:
        MdrtError: there is none of this name.
    """
    if isinstance(name, Head):
        return name
    if name not in heads:
        raise MdrtError(f"head {name!r} is none of {', '.join(heads)}{did_you_mean(name, heads)}")
    return heads[name]


_KINDS: Final[tuple[Literal["named", "unnamed"], ...]] = ("named", "unnamed")


def offered_heads(manifest: Manifest, kind: Literal["named", "unnamed"]) -> list[Head]:
    """The heads of a kind that a bundle can serve, those that it recommends before the others."""
    ranked = dict.fromkeys([*manifest.recommended, *HEADS])
    known = [HEADS[name] for name in ranked if name in HEADS]
    return [head for head in known if head.kind == kind and head.offered(manifest)]


def default_head(manifest: Manifest, kind: Literal["named", "unnamed"]) -> Head:
    """The head that a bundle is asked by where none is named.

    Raises:
        MdrtError: it can serve none of the kind.
    """
    if heads := offered_heads(manifest, kind):
        return heads[0]
    names = "names" if kind == "named" else "segments without names"
    raise MdrtError(f"{manifest.model_id} can be asked for no {names}: it {offer(manifest)}")


def offer(manifest: Manifest) -> str:
    """What a bundle gives out, and whom that serves, for messages."""
    given = ", ".join(TAPS[tap] for tap, outputs in taps(manifest).items() if outputs)
    heads = [h.name for kind in _KINDS for h in offered_heads(manifest, kind)]
    return f"gives out {given}, for {', '.join(heads) or 'no head'}"


__all__ = [
    "HEADS",
    "Declared",
    "Head",
    "HeadOptions",
    "Reading",
    "declared",
    "default_head",
    "find_head",
    "offer",
    "offered_heads",
    "option",
    "parse",
]
