"""Protobuf's wire format, as far as it leads to what is looked for; the rest is stepped over."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final

Bytes = bytes | mmap.mmap

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
LONGEST_VARINT: Final = 10  # bytes


class Malformed(Exception):
    """What is wrong with a file."""


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """A message's fields: number, wire type, and where the value begins and ends."""
    while start < end:
        tag, start = data[start], start + 1
        if tag >= 0x80:
            tag, start = varint(data, start - 1, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >> 32:
            raise Malformed("it has a field of an impossible number")
        if wire == LENGTH:
            size, start = varint(data, start, end)
            after = start + size
        elif wire == VARINT:
            after = varint(data, start, end)[1]
        elif wire == FIXED32:
            after = start + 4
        elif wire == FIXED64:
            after = start + 8
        else:
            raise Malformed(f"it has a field of the unknown wire type {wire}")
        if after > end:
            raise Malformed("a field ends beyond what it is in")
        yield number, wire, start, after
        start = after


def varint(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for place in range(min(LONGEST_VARINT, end - start)):
        byte = data[start + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & (1 << 64) - 1, start + place + 1
    raise Malformed("a number has no end")
