"""A bundle beside its pipeline: tensor by tensor, then label by label."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...export import proof
from ...export.components import open_pipeline
from ...export.probe import probe, select
from ...kernels import Mode
from ...runtime.bundle import Bundle, load_bundle
from ...runtime.segmenter import PAPER, Segmenter
from ..reference import Reference
from .task import Task


@dataclass(frozen=True)
class Agreement:
    """How many pixels get the same label from a bundle and from PyTorch."""

    graphs: str
    mode: str
    share: float


def tensors(
    bundle: Bundle, pipeline: Path, size: int, say: Callable[[str], None]
) -> list[proof.Row]:
    """Every output of every graph, twins included, against plain PyTorch at `size`².

    Raises:
        ExportError: a graph's names or shapes differ from the pipeline's.
    """
    manifest = bundle.manifest
    source = open_pipeline(str(pipeline), None)
    cases = [proof.Case(size, size, 1)]
    tolerance = proof.TOLERANCE[manifest.precision]
    vae, text, unet = bundle.graphs(twins=False)
    fast = bundle.graphs(twins=True)
    rows = []
    say("VAE encoder")
    examples = proof.vae_examples(source.vae(), cases)
    for path in dict.fromkeys((vae, fast[0])):
        rows += proof.prove(path, examples, tolerance)
    say("text encoder")
    examples = proof.text_examples(source.text_encoder(), manifest.tokenizer, cases)
    rows += proof.prove(text, examples, tolerance)
    say("UNet")
    structure = probe(source.unet_config())
    selection = select(
        structure,
        manifest.vae_factor,
        tuple(f.stride for f in manifest.features),
        tuple(dict.fromkeys(a.stride for a in manifest.attention)),
    )
    steps, length = len(manifest.alphas_cumprod), manifest.tokenizer.max_length
    examples = proof.unet_examples(
        source.unet(), selection, steps, length, cases, manifest.vae_factor
    )
    gc.collect()
    for path in dict.fromkeys((unet, fast[2])):
        rows += proof.prove(path, examples, tolerance)
    return rows


def labels(task: Task, say: Callable[[str], None]) -> list[Agreement]:
    """Label maps of one picture, both modes, with and without Winograd convolutions."""
    bundle = load_bundle(task.bundle, verify=False)
    manifest = bundle.manifest
    assert task.pipeline is not None
    say("PyTorch reference")
    reference = Reference(
        task.pipeline,
        tuple(f.stride for f in manifest.features),
        tuple(dict.fromkeys(a.stride for a in manifest.attention)),
        dtype=torch.float32,  # float64 would hold 23 GB of features at 512²
    )
    image, noise = task.image(0), bundle.noise()
    modes: tuple[Mode, ...] = ("paper", "released")
    expected = {mode: reference.segment(image, task.classes, noise, mode=mode) for mode in modes}
    del reference
    gc.collect()
    found = []
    choices = (False, True) if bundle.graphs(True) != bundle.graphs(False) else (False,)
    for winograd in choices:
        name = "Winograd" if winograd else "direct"
        say(f"labels, {name}")
        segmenter = Segmenter(task.bundle, winograd=winograd, verify=False)
        for mode, wanted in expected.items():
            options = replace(PAPER, mode=mode)
            got = segmenter(image, list(task.classes), options=options).labels
            found.append(Agreement(name, mode, float(np.mean(got == wanted))))
        del segmenter
    return found
