"""A bundle beside its pipeline: tensor by tensor, then label by label."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import torch

from ...export import proof
from ...export.backbones import Backbone, open_backbone
from ...export.options import ExportOptions
from ...kernels import Mode
from ...runtime.bundle import contract
from ...runtime.bundle.contract import OPERATORS, Manifest
from ...runtime.bundle.cuts import graph_names
from ...runtime.bundle.loading import Bundle, load_bundle
from ...runtime.errors import MdrtError
from ...runtime.heads.maskdiffusion import MaskDiffusionOptions
from ...runtime.segmenter import Segmenter
from ..joint_reference import JointReference
from ..reference import Reference
from ..tower_reference import TowerReference
from .task import Task

_SEGMENTS: Final = 4  # of a model without words


@dataclass(frozen=True)
class Agreement:
    """How many pixels get the same label from a bundle and from PyTorch; `mode` is the head's, or
    of a model without noise the head."""

    graphs: str
    mode: str
    share: float


def tensors(task: Task, say: Callable[[str], None]) -> list[proof.Row]:
    """Every output of every graph, twins included, against plain PyTorch.

    Raises:
        ExportError: there is no such pipeline or VAE, or a graph's names or shapes differ from
            theirs.
        MdrtError: the bundle was exported with another VAE.
    """
    bundle = load_bundle(task.bundle, verify=False)
    manifest = bundle.manifest
    assert task.pipeline is not None
    backbone = open_backbone(task.pipeline, _as_exported(manifest, task.vae))
    _check_same(backbone, manifest, task)
    cases = [proof.Case(task.size, task.size, 1)]
    files = [bundle.graphs(operators) for operators in OPERATORS]
    rows: list[proof.Row] = []
    tolerance = _tolerance(bundle)

    def prove(graph: str, examples: list[proof.Example]) -> None:
        for path in dict.fromkeys(graphs[graph] for graphs in files):
            rows.extend(proof.prove(path, examples, tolerance))

    if manifest.latent is not None:
        say("VAE encoder")
        prove(contract.VAE_ENCODER, proof.vae_examples(backbone.vae(), cases))
    for text in backbone.texts:
        say(text.spec.graph)
        prove(
            text.spec.graph,
            proof.text_examples(text.load(), text.spec, text.layer, cases, text.any_length),
        )
    say("network")
    network = backbone.network()
    of_graphs = backbone.examples(network, cases)
    del network
    gc.collect()
    for graph, examples in of_graphs.items():
        prove(graph, examples)
    return rows


def _as_exported(manifest: Manifest, vae: str | None) -> ExportOptions:
    """The options by which the same outputs are found again."""
    if manifest.noise is None:
        return ExportOptions()
    features, attention, among = (
        tuple(dict.fromkeys(output.stride for output in outputs))
        for outputs in (manifest.features, manifest.attention, manifest.self_attention)
    )
    return ExportOptions(features, attention, among, _blocks(manifest), vae=vae)


def _check_same(backbone: Backbone, manifest: Manifest, task: Task) -> None:
    """Refuse a VAE whose latents are scaled otherwise than the bundle's."""
    found, expected = backbone.latent, manifest.latent
    if found != expected:
        raise MdrtError(
            f"the bundle was exported with another VAE than {task.vae or task.pipeline}'s: its "
            f"latents are {expected}, that one's {found}; give the one it was exported with",
            vae=...,
        )


def _tolerance(bundle: Bundle) -> float:
    """As export proves a bundle by: wider where weights were rounded to half. Those of a graph may
    have been widened again when it was written, where they are few, so any graph tells for all."""
    graphs = (bundle.path / name for name in graph_names(bundle.manifest))
    rounded = any(
        weight.data_type == onnx.TensorProto.FLOAT16
        for graph in graphs
        for weight in onnx.load(graph, load_external_data=False).graph.initializer
    )
    precision = bundle.manifest.precision
    return proof.TOLERANCE["fp16 weights" if precision == "fp32" and rounded else precision]


def labels(task: Task, say: Callable[[str], None]) -> list[Agreement]:
    """Label maps of one picture, both modes, by every kind of operators; of a model without noise
    by the heads that compare its patches with names, or by one that clusters them."""
    bundle = load_bundle(task.bundle, verify=False)
    manifest = bundle.manifest
    assert task.pipeline is not None
    say("PyTorch reference")
    if manifest.noise is None:
        return _tower_labels(task, bundle, say)
    reference = _reference(task.pipeline, manifest, task.vae)
    image, noise = task.image(0), bundle.noise()
    modes: tuple[Mode, ...] = ("paper", "released")
    expected = {mode: reference.segment(image, task.classes, noise, mode=mode) for mode in modes}
    del reference
    gc.collect()
    found = []
    for operators in bundle.operators:
        say(f"labels, {operators}")
        segmenter = Segmenter(task.bundle, operators=operators, verify=False)
        for mode, wanted in expected.items():
            settings = vars(MaskDiffusionOptions(mode=mode))
            got = segmenter(image, list(task.classes), head="maskdiffusion", **settings).labels
            found.append(Agreement(operators, mode, float(np.mean(got == wanted))))
        del segmenter
    return found


def _reference(pipeline: str, manifest: Manifest, vae: str | None) -> Reference:
    """The oracle of a bundle's family, its mathematics in float32: float64 would hold 23 GB of
    features at 512²."""
    if blocks := _blocks(manifest):
        return JointReference(pipeline, blocks, torch.float32, vae)
    strides = (f.stride for f in manifest.features), (a.stride for a in manifest.attention)
    features, attention = (tuple(dict.fromkeys(found)) for found in strides)
    return Reference(pipeline, features, attention, torch.float32, vae)


def _blocks(manifest: Manifest) -> tuple[int, ...]:
    """Of a transformer, those whose joint attention is exported."""
    return tuple(int(a.layer.split(".")[1]) for a in manifest.attention if a.joint)


def _tower_labels(task: Task, bundle: Bundle, say: Callable[[str], None]) -> list[Agreement]:
    assert task.pipeline is not None
    reference, image = TowerReference(task.pipeline), task.image(0)
    words = bool(bundle.manifest.texts)
    expected = reference.named(image, task.classes) if words else {}
    found = []
    for operators in bundle.operators:
        say(f"labels, {operators}")
        segmenter = Segmenter(task.bundle, operators=operators, verify=False)
        for head, wanted in expected.items():
            got = segmenter(image, list(task.classes), head=head, templates="one").labels
            found.append(Agreement(operators, head, float(np.mean(got == wanted))))
        if not words:
            result = segmenter(image, segments=_SEGMENTS, head="kmeans")
            clusters = torch.from_numpy(result.weights.values.argmax(axis=0))
            same = result.labels == reference.clustered(image, clusters)
            found.append(Agreement(operators, "kmeans", float(np.mean(same))))
        del segmenter
    return found
