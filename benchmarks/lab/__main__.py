"""`python -m mdrt.benchmarks.lab`: what the builders measure with, each imported when asked for."""

from __future__ import annotations

from typing import Final

import click

from ...cli import Commands
from ...cli.lazy import Lazy

_LAB: Final = "mdrt.benchmarks.lab"

COMMANDS: Final = {
    name: Lazy(f"{_LAB}.{module}", "main", help)
    for name, module, help in (
        ("attack", "attack.command", "Mutated inputs, kills, full disks, no memory, a soak."),
        ("claims", "claims", "Which of the paper's claims a sweep over the scenes bears out."),
        ("curve", "scenes.curve", "The curve of a training run, done or not."),
        ("device", "device.document", "Work and kernels of the GPU path, counted without a GPU."),
        ("embedded", "embedded", "The embedded model: cold, warm, and its memory."),
        ("found", "found_segments", "The number of segments that is found beside fixed ones."),
        ("gallery", "scenes.gallery", "A page of held-out scenes under every head."),
        ("gpu", "device.stages", "Stage by stage on a GPU, by its own events."),
        ("kernels", "kernels_bench", "What comes after the network, beside the naive way."),
        ("labels", "labels_bench", "Label formats: their speed, and the memory of a long run."),
        ("operators", "operators_bench", "Layers by mdrt's operators and ONNX Runtime's."),
        ("photographs", "photographs", "The unnamed heads on real photographs."),
        ("pipeline", "random_pipeline", "Write a pipeline of real size with random weights."),
        ("quantise", "quantise", "Write a bundle with 8-bit matrix products, to compare."),
        ("raster", "raster", "A raster of scenes: time and memory of `mdrt raster`."),
        ("robustness", "scenes.robustness", "Other words, orders, sizes and shapes."),
        ("scenes", "scenes.score", "Accuracy of the embedded model on held-out scenes."),
        ("scoring", "scoring", "What scoring a picture costs beside the networks."),
        ("showcase", "scenes.showcase", "The picture of the README."),
        ("storybook", "scenes.storybook", "Write the embedded model as a diffusers pipeline."),
        ("train", "scenes.train", "Train the embedded model from nothing."),
    )
}


@click.group(cls=Commands, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The laboratory: what trains, draws, counts and checks, for those who build mdrt.

    It comes with a checkout and needs the extras export, bench and dev.
    """


if __name__ == "__main__":
    main(prog_name=f"python -m {_LAB}")
