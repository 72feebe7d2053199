"""Twins of a graph for ONNX Runtime on CPUs: the same function, by mdrt's own operators.

    <graph>.winograd.onnx   large 3×3 convolutions by minimal filtering in float32, a quarter of the
                            multiplications; attention whose logits nobody asked for by one operator
                            of ONNX Runtime's that never holds them (at Stable Diffusion's 64×64
                            pixels they are half a gigabyte a layer)
    <graph>.bf16x3.onnx     for processors with bfloat16 tiles: those convolutions as well, since
                            nothing is faster; all others, every product with weights and that
                            attention by bfloat16 products

Operators take along what is around them (`fusion.py`): norms, biases, gates, sums. A twin shares
the weights' file with the graph it was made from; other runtimes keep reading that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from ..runtime.bundle import contract
from .fusion import fuse_convolution, fuse_gate, fuse_product, has_weights, operator
from .patterns import attention, attributes_of, replace

_LEAST_CELLS: Final = 16 * 16
"""Output cells below which a direct convolution is faster: 1280 → 1280 channels take 0.6 of its
time at 16×16 and 1.4 times as long at 8×8, where a vector of tiles is three quarters empty."""
_LEAST_CHANNELS: Final = 64
"""Channels in and out below which the transforms of the tiles eat the gain."""
_LEAST_VALUES: Final = 128 * 32 * 32
"""Cells × channels below which a convolution is too short for a twin to be worth its file: with 96
to 128 channels at 24×24, as in the embedded model, it saves 4 % of a picture's time."""

_FUSED_DOMAIN: Final = "com.microsoft"
_KERNELS: Final = (((3, 3), 1), ((3, 3), 2), ((1, 1), 1))  # and the strides they go with


def write_twins(path: Path, sizes: Mapping[str, Sequence[int]]) -> list[Path]:
    """Write the twins of the graph at `path` beside it.

    Args:
        path: a graph whose weights lie in a file of their own (`path` + ".data").
        sizes: every input's shape at the size the model was trained on.

    Returns:
        Their paths; none where no convolution is large enough, or nothing of a graph without
        convolutions to filter, a transformer's, is replaced.
    """
    cells = _output_cells(path, sizes)
    written = []
    for operators, rewrite in _TWINS.items():
        model = ir.load(path)
        convolves = any(map(_is_filter, model.graph))
        filtered = rewrite(model.graph, cells)
        if not (filtered if convolves else any(node.domain for node in model.graph)):
            return []
        model.opset_imports.update({contract.OPERATOR_DOMAIN: 1, _FUSED_DOMAIN: 1})
        RemoveUnusedNodesPass()(model)
        RemoveUnusedOpsetsPass()(model)
        twin = path.with_name(contract.twin_name(path.name, operators))
        ir.save(model, twin)
        written.append(twin)
    return written


def _by_winograd(graph: Any, cells: Mapping[str, int]) -> int:
    """Replace large convolutions, gates and attention; returns the number of convolutions."""
    _fuse_attention(
        graph, partial(ir.node, "MultiHeadAttention", domain=_FUSED_DOMAIN), "num_heads"
    )
    filtered = _filter_minimally(graph, cells)
    for node in list(graph):
        if node.op_type == "Split":
            fuse_gate(graph, node)
    return filtered


def _by_bf16x3(graph: Any, cells: Mapping[str, int]) -> int:
    """Replace all that the operators compute; returns the number of large convolutions."""
    _fuse_attention(graph, partial(operator, "Attention"), "heads")
    filtered = _filter_minimally(graph, cells)
    for node in list(graph):
        if node.domain == "" and node.op_type == "Conv" and (geometry := _geometry(node)):
            fuse_convolution(graph, node, "Conv", geometry)
        elif node.domain == "" and node.op_type == "MatMul" and has_weights(node):
            fuse_product(graph, node)
    return filtered


def _filter_minimally(graph: Any, cells: Mapping[str, int]) -> int:
    """Replace large convolutions with stride and padding 1; returns their number."""
    replaced = 0
    for node in list(graph):
        if not _is_filter(node) or not _is_large(node, cells):
            continue
        geometry = _geometry(node)
        if geometry is not None and set(geometry.values()) == {1}:  # the stride and every pad
            fuse_convolution(graph, node, "WinogradConv", {})
            replaced += 1
    return replaced


_TWINS: Final[Mapping[str, Callable[[Any, Mapping[str, int]], int]]] = {
    contract.WINOGRAD: _by_winograd,
    contract.BF16X3: _by_bf16x3,
}


def _geometry(node: Any) -> dict[str, int] | None:
    """Stride and pads of a float32 Conv that an operator computes; None for any other."""
    weight, own = node.inputs[1], attributes_of(node)
    if weight.dtype != ir.DataType.FLOAT or weight.shape is None or len(weight.shape) != 4:
        return None
    plain = own.get("group", 1) == 1 and own.get("auto_pad", "NOTSET") == "NOTSET"
    dilated = tuple(own.get("dilations") or (1, 1)) != (1, 1)
    stride, *others = own.get("strides") or (1, 1)
    if not plain or dilated or others != [stride]:
        return None
    if (tuple(weight.shape)[2:], stride) not in _KERNELS:
        return None
    top, left, bottom, right = own.get("pads") or (0, 0, 0, 0)
    pads = {"pad_top": top, "pad_left": left, "pad_bottom": bottom, "pad_right": right}
    return {"stride": stride} | pads


def _is_filter(node: Any) -> bool:
    """Whether a node is a 3×3 convolution."""
    if node.op_type != "Conv":
        return False
    shape = node.inputs[1].shape
    return shape is not None and tuple(shape)[2:] == (3, 3)


def _is_large(node: Any, cells: Mapping[str, int]) -> bool:
    """Whether a 3×3 convolution has enough to do for minimal filtering to pay."""
    weight, size = node.inputs[1], cells.get(node.outputs[0].name or "", 0)
    channels = min(tuple(weight.shape)[:2])
    return size >= _LEAST_CELLS and channels >= _LEAST_CHANNELS and channels * size >= _LEAST_VALUES


def _fuse_attention(graph: Any, make: Callable[..., Any], heads: str) -> None:
    """Replace attention whose logits have no other use by a node that `make` makes."""
    for found in list(attention(graph)):
        inputs = [found.query, found.key, found.value]
        replace(graph, found.output, make(inputs, {heads: found.heads, "scale": found.scale}))


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
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if len(shape) == 4:
            cells[value.name] = shape[2] * shape[3]  # 0 where it is not known
    return cells
