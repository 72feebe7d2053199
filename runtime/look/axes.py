"""See that a bundle's graphs are what its manifest says: names, and every axis that both fix."""

from __future__ import annotations

from ..bundle import contract
from ..bundle.contract import Manifest, TextSpec
from ..bundle.cuts import cuts
from ..bundle.loading import Bundle
from ..errors import BundleError
from ..sessions.base import Session

Shape = tuple[int | None, ...]


def check_axes(bundle: Bundle, graph: str, session: Session) -> None:
    """Compare a graph with the manifest.

    Args:
        graph: its name in the contract.

    Raises:
        BundleError: a tensor is missing or of another shape.
    """
    path, tensors = bundle.path / graph, {**session.inputs, **session.outputs}
    inputs, outputs = graph_axes(bundle.manifest, graph)
    for name, expected in {**inputs, **outputs}.items():
        if name not in tensors:
            raise BundleError(
                f"{path} lacks the tensor {name} its manifest lists; run `mdrt export` again"
            )
        found = tensors[name].shape
        fixed = [pair for pair in zip(found, expected, strict=False) if None not in pair]
        if len(found) != len(expected) or any(n != m for n, m in fixed):
            raise BundleError(
                f"{path}: {name} is {_axes(found)}, its manifest says {_axes(expected)}; "
                "run `mdrt export` again"
            )


def graph_axes(manifest: Manifest, graph: str) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The inputs and the outputs of a graph, None for a side that is open."""
    inputs = {name: _open(name, shape) for name, shape in manifest.inputs(graph, 1, 1, 1).items()}
    return inputs, _outputs(manifest, graph)


def _open(name: str, shape: tuple[int, ...]) -> Shape:
    """An input's shape, with batch and sides of pictures open."""
    spatial = name in (contract.IMAGE, contract.SAMPLE)
    return (None, shape[1], None, None) if spatial else (None, *shape[1:])


def _outputs(manifest: Manifest, graph: str) -> dict[str, Shape]:
    if graph == contract.VAE_ENCODER:
        assert manifest.latent is not None
        return {contract.LATENT: (None, manifest.latent.channels, None, None)}
    for text in manifest.texts:
        if graph == text.graph:
            return _of_text(text)
    length = manifest.texts[0].tokens.max_length if manifest.texts else None
    if graph == contract.KEYS:
        return {a.keys: (None, a.heads, length, a.channels) for a in manifest.late}
    if graph == contract.VALUES:
        return {a.values: (None, a.heads, length, a.width) for a in manifest.with_values}
    maps = (*manifest.features, *manifest.encoder, *manifest.aligned)
    outputs: dict[str, Shape] = {f.name: (None, f.channels, None, None) for f in maps}
    outputs |= {a.name: (None, a.heads, None, length) for a in manifest.attention}
    for layers in (manifest.late, manifest.self_attention):
        outputs |= {a.queries: (None, a.heads, None, a.channels) for a in layers}
    outputs |= {a.keys: (None, a.heads, None, a.channels) for a in manifest.self_attention}
    cut = next(cut for cut in cuts(manifest) if cut.graph == graph)
    return {name: outputs[name] for name in cut.outputs}


def _of_text(text: TextSpec) -> dict[str, Shape]:
    states = {contract.ENCODER_HIDDEN_STATES: (None, text.tokens.max_length, text.hidden)}
    return states | ({contract.POOLED: (None, text.pooled)} if text.pooled else {})


def _axes(shape: Shape) -> str:
    """A shape as text, with ? for a dynamic axis."""
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
