"""See that a bundle's graphs are what its manifest says: names, and every axis that both fix."""

from __future__ import annotations

from collections.abc import Mapping

from ..bundle import contract
from ..bundle.contract import Manifest
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
    for name, expected in _expected(bundle.manifest)[graph].items():
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


def _expected(manifest: Manifest) -> dict[str, Mapping[str, Shape]]:
    """The tensors of every graph."""
    length = manifest.tokenizer.max_length
    latent: Shape = (None, manifest.latent_channels, None, None)
    hidden: Shape = (None, length, manifest.text.hidden)
    outputs: dict[str, Shape] = {f.name: (None, f.channels, None, None) for f in manifest.features}
    outputs |= {a.name: (None, a.heads, None, length) for a in manifest.attention}
    for layers in (manifest.attention, manifest.self_attention):
        outputs |= {a.queries: (None, a.heads, None, a.channels) for a in layers}
    outputs |= {a.keys: (None, a.heads, None, a.channels) for a in manifest.self_attention}
    outputs |= {f.name: (None, f.channels, None, None) for f in manifest.encoder}
    states = contract.ENCODER_HIDDEN_STATES
    inputs = {contract.SAMPLE: latent, states: hidden}
    keys: dict[str, Shape] = {
        a.keys: (None, a.heads, length, a.channels) for a in manifest.attention
    }
    keys |= {a.values: (None, a.heads, length, a.width) for a in manifest.attention}
    return {
        contract.VAE_ENCODER: {contract.LATENT: latent},
        contract.TEXT_ENCODER: {contract.INPUT_IDS: (None, length), states: hidden},
        contract.KEYS: {states: hidden, **keys},
        **{c.graph: inputs | {n: outputs[n] for n in c.outputs} for c in cuts(manifest)},
    }


def _axes(shape: Shape) -> str:
    """A shape as text, with ? for a dynamic axis."""
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
