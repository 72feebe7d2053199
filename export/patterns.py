"""What twins look for in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class AttentionPattern:
    """softmax(QKᵀ·scale)·V whose logits have no other use.

    Attributes:
        query, key, value: (batch, positions, heads · d), before the heads are split.
        output: (batch, positions, heads · d).
    """

    query: Any
    key: Any
    value: Any
    output: Any
    heads: int
    scale: float


def attention(graph: Any) -> Iterator[AttentionPattern]:
    """Every attention whose logits nobody asked for."""
    for node in graph:
        if node.op_type != "Softmax" or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        logits = node.inputs[0].producer()
        mixed = only_use(node.outputs[0], "MatMul")
        swapped = mixed and only_use(_unshaped(mixed.outputs[0]), "Transpose")
        joined = swapped and only_use(swapped.outputs[0], "Reshape")
        alone = only_use(node.inputs[0], "Softmax") is node
        if not alone or logits is None or logits.op_type != "MatMul" or joined is None:
            continue
        heads = mixed.outputs[0].shape[1]
        (query, of_q), (key, of_k), (value, _) = map(_projection, (*logits.inputs, mixed.inputs[1]))
        if any(part.shape is None or len(part.shape) != 3 for part in (query, key, value)):
            continue  # joint attention joins pictures and words when the heads are split already
        yield AttentionPattern(query, key, value, joined.outputs[0], heads, of_q * of_k)


def _unshaped(value: Any) -> Any:
    """A value, or what a Reshape makes of it that changes nothing."""
    same = only_use(value, "Reshape")
    return value if same is None or same.outputs[0].shape != value.shape else same.outputs[0]


def _projection(value: Any) -> tuple[Any, float]:
    """What the heads were split from, (batch, positions, heads · d), and the scale on the way."""
    scale = 1.0
    while (node := value.producer()) is not None:
        if node.op_type == "Mul" and node.inputs[1].const_value is not None:
            factor = node.inputs[1].const_value.numpy()
            if factor.size != 1:
                break
            scale *= float(factor.item())
        elif node.op_type not in ("Reshape", "Transpose"):
            break
        value = node.inputs[0]
    return value, scale


def only_use(value: Any, op_type: str) -> Any:
    """The one node that reads a value, if it is of that type and the value no graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != op_type:
        return None
    return uses[0].node


def producer_of(value: Any, op_type: str) -> Any:
    """The node that gives a value, if it is of that type."""
    node = value.producer()
    return node if node is not None and node.op_type == op_type else None


def stored(value: Any) -> Any:
    """What a graph's file holds of a value: for weights widened by a Cast, what the Cast reads."""
    cast = producer_of(value, "Cast")
    return value if cast is None or cast.inputs[0].const_value is None else cast.inputs[0]


def constant(value: Any) -> Any:
    """A constant's values, float32 where they are float16; None for what is computed."""
    held = stored(value).const_value
    return None if held is None else np.asarray(held.numpy()).astype(value.dtype.numpy())


def attributes_of(node: Any) -> dict[str, Any]:
    """Name → value."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def replace(graph: Any, old: Any, node: Any) -> None:
    """Let a node of one output stand in for whatever computed a value."""
    producer, new = old.producer(), node.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(producer, node)
    if old.is_graph_output():
        index = next(i for i, output in enumerate(graph.outputs) if output is old)
        graph.outputs[index] = new
        new.name, old.name = old.name, None
    old.replace_all_uses_with(new)
    graph.remove(producer, safe=True)
