"""The twin of a graph for ONNX Runtime on CPUs.

Large 3×3 convolutions use minimal filtering (`kernels/cpu/winograd.cpp`), a quarter of the
multiplications; attention whose logits nobody asked for is one operator of ONNX Runtime's that
never holds them (at Stable Diffusion's 64×64 pixels they are half a gigabyte a layer). The twin
shares the weights' file with the graph it was made from; other runtimes keep reading that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from ..runtime.bundle import contract

_LEAST_CELLS: Final = 16 * 16
"""Output cells below which a direct convolution is faster: 1280 → 1280 channels take 0.6 of its
time at 16×16 and 1.4 times as long at 8×8, where a vector of tiles is three quarters empty."""
_LEAST_CHANNELS: Final = 64
"""Channels in and out below which the transforms of the tiles eat the gain."""
_LEAST_VALUES: Final = 128 * 32 * 32
"""Cells × channels below which a convolution is too short for a twin to be worth its file: with 96
to 128 channels at 24×24, as in the embedded model, it saves 4 % of a picture's time."""

_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "pads": ((1, 1, 1, 1),),
    "strides": ((1, 1), None),
    "dilations": ((1, 1), None),
    "group": (1, None),
    "auto_pad": ("NOTSET", None),
}
_FUSED_DOMAIN: Final = "com.microsoft"


def write_twin(path: Path, sizes: Mapping[str, Sequence[int]]) -> Path | None:
    """Write the twin of the graph at `path` beside it.

    Args:
        path: a graph whose weights lie in a file of their own (`path` + ".data").
        sizes: every input's shape at the size the model was trained on.

    Returns:
        The twin's path; None where no convolution is large enough.
    """
    cells = _output_cells(path, sizes)
    model = ir.load(path)
    if not _filter_minimally(model.graph, cells):
        return None
    _fuse_attention(model.graph)
    model.opset_imports.update({contract.OPERATOR_DOMAIN: 1, _FUSED_DOMAIN: 1})
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    twin = path.with_name(contract.twin_name(path.name))
    ir.save(model, twin)
    return twin


def _filter_minimally(graph: Any, cells: Mapping[str, int]) -> int:
    """Replace the convolutions that are large enough; returns their number."""
    replaced = 0
    for node in graph:
        size = cells.get(node.outputs[0].name or "", 0)
        if node.op_type == "Conv" and _fits(node, size):
            node.op_type, node.domain = contract.WINOGRAD_OPERATOR, contract.OPERATOR_DOMAIN
            node.attributes.clear()
            replaced += 1
    return replaced


def _fits(node: Any, cells: int) -> bool:
    """Whether a Conv is what the operator computes, float32, 3×3, stride 1, padding 1, and has
    enough of it to do."""
    weight = node.inputs[1]
    if cells < _LEAST_CELLS or weight.dtype != ir.DataType.FLOAT or weight.shape is None:
        return False
    shape = tuple(weight.shape)
    channels = min(shape[:2])
    if shape[2:] != (3, 3) or channels < _LEAST_CHANNELS or channels * cells < _LEAST_VALUES:
        return False
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    return all(found.get(name) in allowed for name, allowed in _PLAIN.items())


def _fuse_attention(graph: Any) -> None:
    """Replace softmax(QKᵀ·scale)·V where the logits have no other use.

    What was recognised wrongly would not survive the proof that every twin goes through.
    """
    for node in list(graph):
        if node.op_type != "Softmax" or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        logits = node.inputs[0].producer()
        mixed = _only_use(node.outputs[0], "MatMul")
        swapped = mixed and _only_use(mixed.outputs[0], "Transpose")
        joined = swapped and _only_use(swapped.outputs[0], "Reshape")
        alone = _only_use(node.inputs[0], "Softmax") is node
        if not alone or logits is None or logits.op_type != "MatMul" or joined is None:
            continue
        heads = mixed.outputs[0].shape[1]
        (query, of_q), (key, of_k), (value, _) = map(_projection, (*logits.inputs, mixed.inputs[1]))
        attributes = {"num_heads": heads, "scale": of_q * of_k}
        attention = ir.node(
            "MultiHeadAttention", [query, key, value], attributes, domain=_FUSED_DOMAIN
        )
        attention.outputs[0].shape, attention.outputs[0].type = (
            joined.outputs[0].shape,
            joined.outputs[0].type,
        )
        graph.insert_before(joined, attention)
        joined.outputs[0].replace_all_uses_with(attention.outputs[0])


def _only_use(value: Any, op_type: str) -> Any:
    """The one node that reads a value, if it is of that type and no output of the graph."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != op_type:
        return None
    return uses[0].node


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


def _output_cells(path: Path, sizes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Height × width of every four-dimensional tensor whose size follows from `sizes`."""
    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        for dimension, size in zip(
            value.type.tensor_type.shape.dim, sizes[value.name], strict=True
        ):
            dimension.dim_value = size
    for output in model.graph.output:
        for dimension in output.type.tensor_type.shape.dim:
            dimension.Clear()
    del model.graph.value_info[:]
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    cells = {}
    for value in inferred.graph.value_info:
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if len(shape) == 4:
            cells[value.name] = shape[2] * shape[3]  # 0 where it is not known
    return cells
