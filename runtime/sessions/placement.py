"""Where ONNX Runtime put each node of a graph, read back: none is on the CPU by accident."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..bundle.shape_nodes import read_nodes, shape_nodes
from ..errors import ProviderError

ASK: Final = "session.record_ep_graph_assignment_info"
"""The entry of a session's configuration that has ONNX Runtime note it; since 1.24."""

CPU: Final = "CPUExecutionProvider"

_FIRST: Final = 3

# Its transpose optimiser reorders sizes, of a Shape or for a Resize, by a Gather of its own.
_OF_ITS_OWN: Final = re.compile(r"Gather(_token_\d+)?")


def node_counts(
    session: Any, path: Path, provider: str, version: str, allow_cpu: bool
) -> dict[str, int]:
    """How many nodes of a loaded graph each provider has.

    Args:
        session: ONNX Runtime's, loaded with `ASK`.
        path: the graph's file.
        provider: ONNX Runtime's name for the one that was asked for.
        version: of ONNX Runtime.
        allow_cpu: let the CPU have nodes that do more than compute sizes.

    Returns:
        Provider → nodes; empty if ONNX Runtime does not say and that is allowed.

    Raises:
        ProviderError: the CPU has such nodes, or ONNX Runtime does not say.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", list)
    placed = [(part.ep_name, node) for part in ask() for node in part.get_nodes()]
    if not placed and not allow_cpu:
        raise ProviderError(
            f"ONNX Runtime {version} does not say which nodes of {path.name} {provider} leaves to "
            f"the CPU; install 1.24 or newer, or allow any",
            allow_cpu_nodes=True,
        )
    on_cpu = [node for name, node in placed if name == CPU]
    strays = [] if allow_cpu or not on_cpu else _strays(on_cpu, path)
    if strays:
        kinds = Counter(node.op_type for node in strays)
        names = ", ".join(node.name or "one without a name" for node in strays[:_FIRST])
        raise ProviderError(
            f"{provider} leaves {len(strays)} node{'s' * (len(strays) > 1)} of {path.name} to the "
            f"CPU: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())} "
            f"({names}{', …' if len(strays) > _FIRST else ''}); allow it, or use provider cpu",
            allow_cpu_nodes=True,
            provider="cpu",
        )
    return dict(Counter(name for name, _ in placed))


def _strays(on_cpu: Iterable[Any], path: Path) -> list[Any]:
    """The nodes that compute more than sizes."""
    nodes, constants = read_nodes(path)
    theirs, sizes = {node.name for node in nodes}, shape_nodes(nodes, constants)

    def rightly(node: Any) -> bool:
        made = node.op_type == "Gather" and _OF_ITS_OWN.fullmatch(node.name)
        return node.name in sizes if node.name in theirs else bool(made)

    return [node for node in on_cpu if not rightly(node)]
