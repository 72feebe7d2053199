"""`mdrt bench`: every measurement, each imported when it is asked for."""

from __future__ import annotations

from typing import Final

import click

from .lazy import Lazy, LazyGroup

_SPEED: Final = "mdrt.cli.bench_speed"

BENCHES: Final = {
    "curve": Lazy(
        "mdrt.benchmarks.lab.scenes.curve",
        "main",
        "The curve of a training run, done or not.",
        "bench",
    ),
    "device": Lazy(
        "mdrt.benchmarks.lab.device.command",
        "main",
        "Work and compiled kernels of the GPU path, counted without a GPU.",
        "export",
    ),
    "embedded": Lazy(
        "mdrt.benchmarks.lab.embedded", "main", "The embedded model: cold, warm, and its memory."
    ),
    "gallery": Lazy(
        "mdrt.benchmarks.lab.scenes.gallery",
        "main",
        "A page of held-out scenes under every method.",
        "bench",
    ),
    "gpu": Lazy(
        "mdrt.benchmarks.lab.device.latency",
        "main",
        "Stage by stage on a GPU, by its own events.",
    ),
    "growth": Lazy(
        _SPEED, "growth_command", "Time and memory against classes, size and pictures.", "bench"
    ),
    "kernels": Lazy(
        "mdrt.benchmarks.lab.kernels_bench",
        "main",
        "What comes after the network, beside the naive way.",
    ),
    "latency": Lazy(_SPEED, "latency_command", "Stage by stage beside other runtimes.", "bench"),
    "parity": Lazy(
        _SPEED, "parity_command", "A bundle beside its pipeline in PyTorch.", "export,bench"
    ),
    "pipeline": Lazy(
        "mdrt.benchmarks.lab.random_pipeline",
        "main",
        "Write a Stable Diffusion pipeline of real size with random weights.",
        "export",
    ),
    "quantise": Lazy(
        "mdrt.benchmarks.lab.quantise",
        "main",
        "Write a bundle with 8-bit matrix products, to compare.",
        "export",
    ),
    "robustness": Lazy(
        "mdrt.benchmarks.lab.scenes.robustness",
        "main",
        "The embedded model with other words, orders, sizes and shapes.",
        "bench",
    ),
    "scenes": Lazy(
        "mdrt.benchmarks.lab.scenes.score",
        "main",
        "Accuracy of the embedded model on held-out scenes.",
        "bench",
    ),
    "scoring": Lazy(
        "mdrt.benchmarks.lab.scoring",
        "main",
        "What scoring a picture costs beside the networks.",
        "bench",
    ),
}


@click.group("bench", cls=LazyGroup, lazy=BENCHES)
def bench_command() -> None:
    """Measure speed, memory, parity and accuracy.

    \b
    mdrt bench latency
    mdrt bench latency -e sd15 --pipeline ./sd15-diffusers --against torch,mnn --out bench
    mdrt bench growth -e sd15 --sizes-at 512,1024 --out bench
    mdrt bench parity -e sd15 --pipeline ./sd15-diffusers
    mdrt bench scenes
    mdrt bench gallery -o gallery.png
    """
