"""A pass that keeps every softmax of a graph in float32."""

from __future__ import annotations

from typing import Any, Final

import onnx_ir as ir

_HALF: Final = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def widen_softmax(model: Any) -> None:
    """Compute every half-precision Softmax in float32, cast to and fro.

    torch's exporter writes `softmax(x, dtype=float32)`, as CLIP's attention
    asks for it, as a half-precision Softmax whose result is cast afterwards.
    """
    graph = model.graph
    for node in [node for node in graph if node.op_type == "Softmax"]:
        source, result = node.inputs[0], node.outputs[0]
        if source.dtype not in _HALF:
            continue
        widen = _cast(source, ir.DataType.FLOAT, f"widen {node.name}")
        narrow = _cast(result, source.dtype, f"narrow {node.name}")
        result.replace_all_uses_with(narrow.outputs[0])
        narrow.replace_input_with(0, result)
        node.replace_input_with(0, widen.outputs[0])
        result.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(node, widen)
        graph.insert_after(node, narrow)


def _cast(value: Any, dtype: ir.DataType, name: str) -> Any:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
    return node
