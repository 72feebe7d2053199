"""Ways to read a look, one file and one line here each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import MdrtError
from .attention import ATTENTION
from .base import Head, Reading, did_you_mean, parse
from .diffseg import DIFFSEG
from .goca import GOCA
from .kmeans import KMEANS
from .maskdiffusion import MASKDIFFUSION
from .multicut import MULTICUT
from .ncut import NCUT
from .options import Declared, HeadOptions, declared, option
from .refined import REFINED
from .spectral import SPECTRAL

HEADS: Final[Mapping[str, Head]] = {
    head.name: head
    for head in (
        MASKDIFFUSION,
        ATTENTION,
        REFINED,
        GOCA,
        SPECTRAL,
        KMEANS,
        NCUT,
        MULTICUT,
        DIFFSEG,
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


__all__ = [
    "HEADS",
    "Declared",
    "Head",
    "HeadOptions",
    "Reading",
    "declared",
    "find_head",
    "option",
    "parse",
]
