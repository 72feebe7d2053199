"""Passes over a traced graph's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

_SMALLEST: Final = 256  # elements; below it a Cast node costs more than it saves


def strip_traces(model: Any) -> None:
    """Drop what the tracer noted about its own source code: paths, stack traces, module names."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def store_as_float16(model: Any) -> int:
    """Store large float32 weights as float16, each widened by a Cast before its use.

    Arithmetic stays float32 (a runtime folds the casts when it loads the
    graph); the file is half as large, and each weight is rounded once. A
    weight with a value beyond float16's range keeps float32.

    Returns:
        The number of weights stored as float16.
    """
    graph = model.graph
    stored = 0
    for value in list(graph.initializers.values()):
        if value.const_value.dtype != ir.DataType.FLOAT or value.const_value.size < _SMALLEST:
            continue
        wide = value.const_value.numpy()
        if np.abs(wide).max() > np.finfo(np.float16).max:
            continue
        name = f"{value.name}.fp16"
        narrow = ir.Value(
            name=name,
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.tensor(wide.astype(np.float16), name=name),
        )
        cast = ir.node("Cast", [narrow], {"to": ir.DataType.FLOAT.value}, name=f"widen {name}")
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[value.name]
        cast.outputs[0].name = value.name
        graph.initializers[name] = narrow
        graph.insert_before(graph[0], cast)
        stored += 1
    return stored


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
