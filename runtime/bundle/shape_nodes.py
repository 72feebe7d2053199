"""Which nodes of a graph compute sizes alone: what a GPU's provider rightly leaves to the CPU.

A size is known on the CPU before any picture is, and a kernel for three integers costs more to
start than to compute: ONNX Runtime's CUDA provider moves such nodes (its `GetCpuPreferredNodes`).
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from .protobuf import Bytes, fields, varint

SOURCES: Final = frozenset({"Shape", "Size"})

SIZE_OPS: Final = frozenset(
    {
        *("Abs", "Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Identity"),
        *("Max", "Min", "Mod", "Mul", "Neg", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub"),
        *("Unsqueeze", "Where"),
    }
)
"""Of these only small inputs make small outputs; not so of Expand, Range or ConstantOfShape."""

SMALL: Final = 100
"""Most elements of a constant among them; ONNX Runtime's own bound (kSmallInitializerThreshold)."""


class Node(NamedTuple):
    """A node of a graph: its name, operator, and the tensors it reads and writes."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def shape_nodes(nodes: Iterable[Node], constants: Collection[str]) -> set[str]:
    """The names of the nodes that compute sizes from sizes.

    Args:
        nodes: of one graph, in an order in which they can run.
        constants: the small ones, by name.

    Returns:
        Shape and Size, whose values no pixel changes, and what reads nothing but them and small
        constants. A node of any other operator, or that reads anything else, is not in it; nor is
        a name that several nodes bear.
    """
    sizes: set[str] = set()
    found = set()
    borne: Counter[str] = Counter()
    for node in nodes:
        borne[node.name] += 1
        read = [name for name in node.inputs if name]
        from_sizes = (
            node.operator in SIZE_OPS
            and any(name in sizes for name in read)
            and all(name in sizes or name in constants for name in read)
        )
        if not node.domain and (node.operator in SOURCES or from_sizes):
            sizes.update(node.outputs)
            found.add(node.name)
    return {name for name in found if borne[name] == 1}


def read_nodes(path: Path) -> tuple[list[Node], set[str]]:
    """The nodes of an ONNX file's graph, and the names of its small constants.

    Nothing else of it is read, weights least of all. Field numbers are of `onnx.proto`.

    Raises Malformed if the file is no such message.
    """
    nodes, constants = [], set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, _, begin, end in fields(data, 0, len(data)):
            if number != 7:  # ModelProto.graph
                continue
            for part, _, *where in fields(data, begin, end):
                if part == 1:  # GraphProto.node
                    nodes.append(_node(data, *where))
                elif part == 5:  # GraphProto.initializer
                    constants.update(_small_constant(data, *where))
    return nodes, constants


def _node(data: Bytes, start: int, end: int) -> Node:
    texts: dict[int, list[str]] = {}
    for number, _, begin, after in fields(data, start, end):
        if number in (1, 2, 3, 4, 7):  # input, output, name, op_type, domain
            texts.setdefault(number, []).append(data[begin:after].decode())
    inputs, outputs = (tuple(texts.get(number, ())) for number in (1, 2))
    name, operator, domain = (texts.get(number, [""])[0] for number in (3, 4, 7))
    return Node(name, operator, domain, inputs, outputs)


def _small_constant(data: Bytes, start: int, end: int) -> list[str]:
    """The name of a TensorProto, if it is small."""
    sides, name = [], ""
    for number, _, at, after in fields(data, start, end):
        if number == 1:  # dims, one by one or packed: numbers, one after another
            while at < after:
                side, at = varint(data, at, after)
                sides.append(side)
        elif number == 8:  # name
            name = data[at:after].decode()
    return [name] if math.prod(sides) <= SMALL else []
