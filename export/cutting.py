"""Write the cuts of a network: what some of its outputs need, over the weights that it has."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from ..runtime.bundle.contract import OPERATORS, Outputs, twin_name
from ..runtime.bundle.cuts import Cut, cuts


def write_cuts(directory: Path, of: Outputs) -> list[tuple[Cut, Path]]:
    """Write every cut of the network in `directory`, and of its twins for CPUs.

    Args:
        directory: holds the network's graph.
        of: what that gives out.

    Returns:
        Each graph that was written, and the cut that it is.
    """
    written = []
    for cut in cuts(of):
        for operators in OPERATORS:
            source, target = (
                directory / twin_name(graph, operators) for graph in (of.network, cut.graph)
            )
            if source.exists() and source != target:
                _write_cut(source, target, cut.outputs)
                written.append((cut, target))
    return written


def _write_cut(source: Path, target: Path, outputs: Collection[str]) -> None:
    """Write the part of `source` that computes `outputs`; its weights stay in their file."""
    model = ir.load(source)
    graph = model.graph
    kept = [value for value in graph.outputs if value.name in outputs]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    ir.save(model, target)
