"""The twin of a graph in which large 3×3 convolutions use minimal filtering.

`kernels/cpu/winograd.cpp` computes them with a quarter of the multiplications. The twin shares
the weights' file with the graph it was made from; other runtimes keep reading the graph itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx import shape_inference

from ..runtime import contract

_LEAST_CELLS: Final = 32 * 32
"""Output cells below which the transformed weights, four times the size, cost more to read than
the multiplications saved: 1280 → 1280 channels take 0.44 of the direct time at 32×32, 1.6 at 16×16.
"""
_LEAST_CHANNELS: Final = 64
"""Channels in and out below which the transforms of the tiles eat the gain."""

_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "pads": ((1, 1, 1, 1),),
    "strides": ((1, 1), None),
    "dilations": ((1, 1), None),
    "group": (1, None),
    "auto_pad": ("NOTSET", None),
}


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
    replaced = 0
    for node in model.graph:
        large = cells.get(node.outputs[0].name or "", 0) >= _LEAST_CELLS
        if node.op_type == "Conv" and large and _fits(node):
            node.op_type, node.domain = contract.WINOGRAD_OPERATOR, contract.OPERATOR_DOMAIN
            node.attributes.clear()
            replaced += 1
    if not replaced:
        return None
    model.opset_imports[contract.OPERATOR_DOMAIN] = 1
    twin = path.with_name(contract.winograd_name(path.name))
    ir.save(model, twin)
    return twin


def _fits(node: Any) -> bool:
    """Whether a Conv is what the operator computes: float32, 3×3, stride 1, padding 1."""
    weight = node.inputs[1]
    if weight.dtype != ir.DataType.FLOAT or weight.shape is None:
        return False
    shape = tuple(weight.shape)
    if shape[2:] != (3, 3) or min(shape[:2]) < _LEAST_CHANNELS:
        return False
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    return all(found.get(name) in allowed for name, allowed in _PLAIN.items())


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
