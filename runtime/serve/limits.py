"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What callers may ask for; what is beyond is refused, with the limit in the message.

    Attributes:
        bytes: of one request.
        pixels: of one picture.
        pictures: of one request.
        names: of one question, synonyms counted.
        characters: of one name.
        max_size: pixels of the longer side that the network may see; the callers' default too.
        waiting: pictures that may wait for a worker.
        seconds: from a request's arrival to its answer.
        looks: bytes of all looks that are kept.
    """

    bytes: int = 32 << 20
    pixels: int = 40_000_000
    pictures: int = 16
    names: int = 200
    characters: int = 100
    max_size: int = 1024
    waiting: int = 32
    seconds: float = 120.0
    looks: int = 1 << 30
