"""What became of a graph's attention: fused into one kernel, or split around its softmax.

Read from what the builder says of its engine; the engine itself could be asked only on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from ...runtime.bundle.plan import Kernels

_ORIGIN: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def count_kernels(network: Any, described: Sequence[str]) -> Kernels:
    """Count the layers of an engine and find its softmaxes among them.

    Args:
        network: what was built, its layers named as the graph's nodes.
        described: the builder's lines, each with the nodes that a layer was made from.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = {layer.name for layer in layers if layer.type.name == "MATRIX_MULTIPLY"}
    softmaxes = {layer.name for layer in layers if layer.type.name == "SOFTMAX"}
    origins = [set(_ORIGIN.findall(line)) for line in described]
    found = [nodes for nodes in origins if nodes & softmaxes]
    fused = sum(_is_fused(nodes, products) for nodes in found)
    return Kernels(len(origins), fused, len(found) - fused)


def _is_fused(nodes: Collection[str], products: Collection[str]) -> bool:
    """Whether QKᵀ and the product with V are in the layer too."""
    return len([node for node in nodes if node in products]) >= 2
