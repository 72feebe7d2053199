"""A bundle beside its pipeline: tensor by tensor, then label by label."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...export import proof
from ...export.components import open_pipeline
from ...export.probe import probe, select
from ...kernels import Mode
from ...runtime.bundle import contract
from ...runtime.bundle.contract import OPERATORS, Manifest
from ...runtime.bundle.loading import load_bundle
from ...runtime.errors import MdrtError
from ...runtime.heads.maskdiffusion import MaskDiffusionOptions
from ...runtime.segmenter import Segmenter
from ..reference import Reference
from .task import Task


@dataclass(frozen=True)
class Agreement:
    """How many pixels get the same label from a bundle and from PyTorch."""

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
    source = open_pipeline(task.pipeline, None if task.vae is None else Path(task.vae))
    cases = [proof.Case(task.size, task.size, 1)]

    def prove(path: Path, examples: list[proof.Example]) -> list[proof.Row]:
        return proof.prove(path, examples, _tolerance(path, manifest.precision))

    files = [bundle.graphs(operators) for operators in OPERATORS]
    plain = bundle.graphs()
    rows = []
    say("VAE encoder")
    encoder = source.vae()
    _check_vae(encoder.config, source.vae_path, manifest)
    examples = proof.vae_examples(encoder, cases)
    del encoder
    for path in dict.fromkeys(graphs[contract.VAE_ENCODER] for graphs in files):
        rows += prove(path, examples)
    say("text encoder")
    examples = proof.text_examples(source.text_encoder(), manifest.tokenizer, cases)
    rows += prove(plain[contract.TEXT_ENCODER], examples)
    say("UNet")
    structure = probe(source.unet_config())
    selection = select(
        structure,
        manifest.vae_factor,
        tuple(f.stride for f in manifest.features),
        tuple(dict.fromkeys(a.stride for a in manifest.attention)),
        tuple(dict.fromkeys(a.stride for a in manifest.self_attention)),
    )
    steps, length = len(manifest.alphas_cumprod), manifest.tokenizer.max_length
    network = source.unet()
    examples = proof.unet_examples(network, selection, steps, length, cases, manifest.vae_factor)
    of_keys = proof.keys_examples(network, selection, length, cases)
    del network
    gc.collect()
    for path in dict.fromkeys(graphs[contract.UNET] for graphs in files):
        rows += prove(path, examples)
    rows += prove(plain[contract.KEYS], of_keys)
    return rows


def _check_vae(config: Any, path: Path, manifest: Manifest) -> None:
    """Refuse a VAE whose latents are scaled otherwise than the bundle's."""
    found = (float(config.scaling_factor), float(config.get("shift_factor") or 0.0))
    if found != (manifest.scaling_factor, manifest.shift_factor):
        raise MdrtError(
            f"the bundle was exported with another VAE than {path}: it scales latents by "
            f"{manifest.scaling_factor}, that one by {found[0]}; give the one it was exported with",
            vae=...,
        )


def _tolerance(graph: Path, precision: str) -> float:
    """As export proves the graph by: wider where weights were rounded to half."""
    weights = onnx.load(graph, load_external_data=False).graph.initializer
    rounded = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in weights)
    kind = "fp16 weights" if precision == "fp32" and rounded else precision
    return proof.TOLERANCE[kind]


def labels(task: Task, say: Callable[[str], None]) -> list[Agreement]:
    """Label maps of one picture, both modes, by every kind of operators."""
    bundle = load_bundle(task.bundle, verify=False)
    manifest = bundle.manifest
    assert task.pipeline is not None
    say("PyTorch reference")
    reference = Reference(
        task.pipeline,
        tuple(f.stride for f in manifest.features),
        tuple(dict.fromkeys(a.stride for a in manifest.attention)),
        vae=task.vae,
        dtype=torch.float32,  # float64 would hold 23 GB of features at 512²
    )
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
            got = segmenter(image, list(task.classes), **settings).labels
            found.append(Agreement(operators, mode, float(np.mean(got == wanted))))
        del segmenter
    return found
