"""Inputs as an attacker, a bad disk or a careless editor makes them, by a fixed seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

Random = np.random.Generator

NUMBERS: Final = (0, -1, 1, 255, 256, 2**31 - 1, 2**31, 2**63, 10**400, 0.5, -1e308, float("nan"))
TEXTS: Final = (
    "",
    "\0",
    "../../x",
    "/etc/passwd",
    "x" * 300,
    "\x1b[2J",
    "\ud800",
    "\u202e",
    "1e999",
)
VALUES: Final[tuple[Any, ...]] = (*NUMBERS, *TEXTS, None, True, [], {}, [[[[]]]], {"": {}})
LENGTHS: Final = (b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 9 + b"\x01")


def of_bytes(seed: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, doubled, moved, and numbers where lengths may stand."""
    data = bytearray(seed)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(0, len(data) + 1))
        size = int(random.integers(1, 33))
        kind = random.integers(0, 6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            lengths = LENGTHS[int(random.integers(0, len(LENGTHS)))]
            data[at : at + len(lengths)] = lengths
        elif kind == 4:
            data[at : at + size] = random.bytes(size)
        else:
            del data[at:]
    return bytes(data)


def of_json(seed: bytes, random: Random) -> bytes:
    """Values replaced, removed, renamed, doubled and nested; now and then the bytes themselves."""
    if random.random() < 0.2:
        return of_bytes(seed, random)
    values = copy.deepcopy(json.loads(seed))
    for _ in range(random.integers(1, 4)):
        holders = list(_holders(values))
        holder, key = holders[int(random.integers(0, len(holders)))]
        kind, new = random.integers(0, 5), VALUES[int(random.integers(0, len(VALUES)))]
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[TEXTS[int(random.integers(0, len(TEXTS)))]] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder += holder[:1000]
        elif kind == 3:
            holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(new)  # which later changes would else change, too
        if not values:
            break
    return json.dumps(values).encode()


def of_text(seed: bytes, random: Random) -> bytes:
    """Words of a text exchanged for what texts may hold at worst."""
    if random.random() < 0.3:
        return of_bytes(seed, random)
    lines = seed.decode().split("\n")
    at = int(random.integers(0, len(lines)))
    worst = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
    whole = [line.encode() for line in lines]
    whole[at] = worst[int(random.integers(0, len(worst)))] + b", " + whole[at]
    return b"\n".join(whole)


def _holders(values: Any) -> list[tuple[Any, Any]]:
    """Every (list or object, place in it), a few hundred of each list."""
    found, waiting = [], [values]
    while waiting:
        one = waiting.pop()
        places: Sequence[Any] = ()
        if isinstance(one, Mapping):
            places = list(one)
        elif isinstance(one, list):
            places = range(min(len(one), 300))
        found += [(one, place) for place in places]
        waiting += [one[place] for place in places]
    return found or [({"": 0}, "")]


Mutation = Callable[[bytes, Random], bytes]
