"""What a twin's operators take along: norms before a convolution, sums behind it, biases, gates.

What was recognised wrongly would not survive the proof that every twin goes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..runtime.bundle import contract
from .patterns import attributes_of, constant, only_use, producer_of, replace, stored


def operator(name: str, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """A node of one of mdrt's own operators; missing optional inputs are None."""
    while inputs[-1] is None:
        inputs.pop()
    return ir.node(name, inputs, dict(attributes), domain=contract.OPERATOR_DOMAIN)


def fuse_convolution(graph: Any, node: Any, name: str, geometry: Mapping[str, int]) -> None:
    """Replace a Conv, the group normalisation (and SiLU) that it alone reads, and the sum that
    alone reads it, by the operator `name` (`kernels/cpu/operators.cpp`)."""
    source, weight, *bias = node.inputs
    norm = _normalisation(source)
    attributes: dict[str, Any] = {**geometry, "groups": 1, "epsilon": 0.0, "silu": 0}
    inputs = [source, stored(weight), bias[0] if bias else None, None, None, None]
    if norm is not None:
        attributes |= {"groups": norm.groups, "epsilon": norm.epsilon, "silu": int(norm.silu)}
        inputs[0], inputs[3], inputs[4] = norm.x, norm.gamma, norm.beta
    output = node.outputs[0]
    total, other = _sum(output)
    if total is not None and constant(other) is None and _rank(other) == 4:
        inputs[5], output = other, total
    replace(graph, output, operator(name, inputs, attributes))


def fuse_product(graph: Any, node: Any) -> None:
    """Replace a MatMul with weights, its bias, its gate, and the sum behind, by mdrt.MatMul."""
    source, weight = node.inputs
    output, bias, added, gated = node.outputs[0], None, None, False
    total, other = _sum(output)
    values = None if total is None else constant(other)
    if values is not None and values.shape == (weight.shape[1],):
        bias, output = other, total
    if (product := _gate(output)) is not None:
        output, gated = product, True
    total, other = _sum(output)
    if total is not None and constant(other) is None and _rank(other) == _rank(source):
        added, output = other, total
    inputs = [source, stored(weight), bias, added]
    replace(graph, output, operator("MatMul", inputs, {"gated": int(gated)}))


def fuse_gate(graph: Any, node: Any) -> None:
    """Replace a gate (a Split, a Gelu and a Mul) and the bias before it by mdrt.Gate."""
    value, bias = node.inputs[0], None
    if (gated := _gate(value)) is None:
        return
    add = producer_of(value, "Add")
    for x, other in () if add is None else (add.inputs, reversed(add.inputs)):
        values = constant(other)
        if values is not None and values.shape == (value.shape[-1],):
            value, bias = x, other
            break
    replace(graph, gated, operator("Gate", [value, bias], {}))


def has_weights(node: Any) -> bool:
    """Whether a MatMul is (…, length) times float32 weights (length, width)."""
    source, weight = node.inputs
    plain = weight.dtype == ir.DataType.FLOAT and _rank(weight) == 2 and _rank(source) == 3
    return plain and all(isinstance(side, int) for side in weight.shape)


@dataclass(frozen=True)
class _Normalised:
    """x before a group normalisation, with or without SiLU behind it."""

    x: Any
    gamma: Any
    beta: Any
    groups: int
    epsilon: float
    silu: bool


def _normalisation(value: Any) -> _Normalised | None:
    """The normalisation that gave a value, if the value and what is between have no other use."""
    activated = _silu(value)
    value = value if activated is None else activated
    shifted = producer_of(value, "Add")
    if shifted is None or not (activated is not None or _read_once(value)):
        return None
    scaled, beta = shifted.inputs
    factor = producer_of(scaled, "Mul")
    whole = factor and producer_of(factor.inputs[0], "Reshape")
    instance = whole and producer_of(whole.inputs[0], "InstanceNormalization")
    split = instance and producer_of(instance.inputs[0], "Reshape")
    if not split or not all(_read_once(n.outputs[0]) for n in (factor, whole, instance, split)):
        return None
    shape, ones, zeros = map(constant, (split.inputs[1], *instance.inputs[1:]))
    gamma = factor.inputs[1]
    if any(found is None for found in (shape, ones, zeros, constant(gamma), constant(beta))):
        return None
    if (ones != 1).any() or zeros.any():
        return None
    epsilon = float(attributes_of(instance).get("epsilon", 1e-5))
    silu = activated is not None
    return _Normalised(split.inputs[0], gamma, beta, int(shape[1]), epsilon, silu)


def _silu(value: Any) -> Any:
    """x of a value x · σ(x) that one node reads and x nothing else; None for any other value."""
    product = producer_of(value, "Mul")
    if product is None or not _read_once(value):
        return None
    for x, gate in (product.inputs, reversed(product.inputs)):
        sigmoid = producer_of(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return x if len(list(x.uses())) == 2 and not x.is_graph_output() else None
    return None


def _gate(value: Any) -> Any:
    """a · gelu(b) of a value (a | b), split along its last axis; None if it is not gated so."""
    split = only_use(value, "Split")
    if split is None or len(split.outputs) != 2:
        return None
    if attributes_of(split).get("axis", 0) not in (-1, _rank(value) - 1):
        return None
    gelu, product = only_use(split.outputs[1], "Gelu"), only_use(split.outputs[0], "Mul")
    if gelu is None or attributes_of(gelu).get("approximate", "none") != "none":
        return None
    return product.outputs[0] if only_use(gelu.outputs[0], "Mul") is product else None


def _sum(value: Any) -> tuple[Any, Any]:
    """(sum, what is added) of the one Add that reads a value; (None, None) if it has other uses."""
    add = only_use(value, "Add")
    if add is None:
        return None, None
    return add.outputs[0], add.inputs[1 if add.inputs[0] is value else 0]


def _read_once(value: Any) -> bool:
    """Whether one node reads a value, those that read its shape alone not counted."""
    readers = {use.node for use in value.uses() if use.node.op_type != "Shape"}
    return len(readers) == 1 and not value.is_graph_output()


def _rank(value: Any) -> int:
    return -1 if value.shape is None else len(value.shape)
