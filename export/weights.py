"""Passes over a traced graph's weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir


def strip_traces(model: Any) -> None:
    """Drop what the tracer noted about its own source code: paths, stack traces, module names."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def keeps_halves(node: Any) -> bool | None:
    """What onnxscript's optimizer asks of every node: not to fold the Cast of a weight that is
    stored in half, which it would below 8,192 elements; None leaves a node to its own rules."""
    if node.op_type != "Cast":
        return None
    (source,) = node.inputs
    stored = source.is_initializer() and len(source.shape) > 1
    return False if stored and source.dtype == ir.DataType.FLOAT16 else None


def turn_halves(model: Any) -> None:
    """Lay matrices that are stored in half as products read them, so that no run turns them; each
    is turned when it is written."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT16 or len(value.shape) != 2:
            continue
        casts = [use.node for use in value.uses()]
        turns = [use.node for cast in casts for use in cast.outputs[0].uses()]
        if {node.op_type for node in casts} != {"Cast"} or any(
            node.op_type != "Transpose" for node in turns
        ):
            continue
        value.shape = ir.Shape(reversed(value.shape))
        value.const_value = ir.LazyTensor(
            partial(_turned, value.const_value),
            dtype=ir.DataType.FLOAT16,
            shape=value.shape,
            name=value.name,
        )
        for cast in casts:
            cast.outputs[0].shape = value.shape
        for turn in turns:
            turn.outputs[0].replace_all_uses_with(turn.inputs[0])
            graph.remove(turn, safe=True)


def _turned(tensor: Any) -> Any:
    return ir.tensor(np.ascontiguousarray(tensor.numpy().T))


def widen_bfloat16(source: Path, target: Path) -> None:
    """Write a copy of a graph that computes in float32 with the bfloat16 weights it holds."""
    model = ir.load(source)
    for value in list(model.graph.initializers.values()):
        weight = value.const_value
        if weight is not None and weight.dtype == ir.DataType.BFLOAT16:
            value.const_value = ir.tensor(weight.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph.all_nodes():
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
        for output in node.outputs:
            if output.type is not None and output.type.dtype == ir.DataType.BFLOAT16:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    ir.save(model, target, external_data=f"{target.name}.data")
