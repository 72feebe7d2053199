"""Where a graph says its weights lie, read from the file's own bytes.

ONNX keeps large weights in other files: each tensor names one, an offset and a length. Which of
these names a runtime follows depends on the runtime (ONNX Runtime 1.20 opens `../x`, absolute
paths and links), so the bundle looks at them before any does. What stands here of protobuf's wire
format and of ONNX's messages is no more than leads to a tensor; all else is stepped over, weights
that lie in the graph itself included, and is not even read from the disk.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import BundleError
from .protobuf import LENGTH, VARINT, Bytes, Malformed, fields, varint

_DEEPEST: Final = 100
"""Messages in one another: protobuf's own limit, which every reader of a graph keeps to."""

# https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto, field number → message
_WITHIN: Final[Mapping[str, Mapping[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_DIMS, _DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 13, 14  # of a Tensor
_EXTERNAL: Final = 1  # the value of data_location
_KEY, _VALUE = 1, 2  # of an entry of external_data
_OP_TYPE: Final = 4  # of a Node
_CONTEXT: Final = b"EPContext"  # ONNX Runtime's operator that loads a provider's own files
_SAID: Final = (b"location", _CONTEXT)
"""What a node that leads to another file says somewhere; other nodes are stepped over whole."""

_BITS: Final[Mapping[int, int]] = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # int8 to bool, float8
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""Bits of an element, by ONNX's data type; strings cannot be external."""


@dataclass(frozen=True)
class External:
    """Bytes of another file that a graph asks for; `location` is the name as it is written."""

    location: str
    offset: int
    length: int


def find_external(path: Path) -> set[External]:
    """Everything a graph loads from other files.

    Args:
        path: an ONNX file. Its weights are not read.

    Raises:
        BundleError: the file is no ONNX graph, names other files in an impossible way, or asks a
            provider to load what only that provider can read.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise Malformed("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return set(_walk(data))
    except Malformed as error:
        raise BundleError(
            f"{path} is no ONNX graph that can be trusted: {error}; run `mdrt export` again"
        ) from None


def _walk(data: Bytes) -> Iterator[External]:
    """Every external tensor, however deep in subgraphs, functions and attributes."""
    waiting = [("Model", 0, len(data), 0)]
    while waiting:
        message, start, end, depth = waiting.pop()
        if depth > _DEEPEST:
            raise Malformed(f"its messages are nested more than {_DEEPEST} deep")
        if message == "Tensor":
            yield from _tensor(data, start, end)
            continue
        within = _WITHIN[message]
        for number, wire, begin, after in fields(data, start, end):
            if wire != LENGTH:
                continue
            if number in within:
                inner = within[number]
                if inner != "Node" or any(data.find(word, begin, after) >= 0 for word in _SAID):
                    waiting.append((inner, begin, after, depth + 1))
            elif message == "Node" and number == _OP_TYPE and data[begin:after] == _CONTEXT:
                raise Malformed("it holds a node EPContext, which loads a provider's own files")


def _tensor(data: Bytes, start: int, end: int) -> Iterator[External]:
    """What a tensor loads from another file, if anything."""
    dims: list[int] = []
    kind, outside = 0, False
    entries: dict[str, str] = {}
    for number, wire, begin, after in fields(data, start, end):
        if number == _DIMS and wire == VARINT:
            dims.append(varint(data, begin, after)[0])
        elif number == _DIMS and wire == LENGTH:
            while begin < after:
                value, begin = varint(data, begin, after)
                dims.append(value)
        elif number == _DATA_TYPE and wire == VARINT:
            kind = varint(data, begin, after)[0]
        elif number == _DATA_LOCATION and wire == VARINT:
            outside = outside or varint(data, begin, after)[0] == _EXTERNAL
        elif number == _EXTERNAL_DATA and wire == LENGTH:
            outside = True
            key, text = _entry(data, begin, after)
            if key in entries:
                raise Malformed(f"a tensor gives its {key} twice")
            entries[key] = text
    if outside:
        yield _external(entries, dims, kind)


def _entry(data: Bytes, start: int, end: int) -> tuple[str, str]:
    """A key and a value of a tensor's external data."""
    texts = {_KEY: b"", _VALUE: b""}
    for number, wire, begin, after in fields(data, start, end):
        if wire == LENGTH and number in texts:
            texts[number] = data[begin:after]
    try:
        return texts[_KEY].decode(), texts[_VALUE].decode()
    except UnicodeDecodeError:
        raise Malformed("a tensor's external data are no text") from None


def _external(entries: Mapping[str, str], dims: list[int], kind: int) -> External:
    if "location" not in entries:
        raise Malformed("a tensor lies in another file and does not say in which")
    offset, length = (_count(entries.get(key) or "0", key) for key in ("offset", "length"))
    if kind not in _BITS:
        raise Malformed(f"a tensor of data type {kind} lies in another file")
    if any(side >= 1 << 63 for side in dims):
        raise Malformed("a tensor has a negative side")
    needed = (math.prod(dims) * _BITS[kind] + 7) // 8
    return External(entries["location"], offset, max(length, needed))


def _count(text: str, key: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise Malformed(f"a tensor's {key} is {text[:40]!r}, expected a number")
    return int(text)
