"""Where a picture's time goes on a GPU, by the GPU's own events."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ....runtime.errors import ProviderError
from ....runtime.heads import HEADS
from ....runtime.segmenter import Segmenter
from ....runtime.sessions.device import Gpu
from ...speed.task import CITYSCAPES, NETWORK, Task

RIM: Final = ("image", "download")
"""Stages on the way between host and device."""


def measure(segmenter: Segmenter, task: Task, pictures: int, warmup: int) -> dict[str, Any]:
    """Medians over pictures that are each segmented alone.

    Args:
        segmenter: on a GPU.
        task: the picture size and the classes.
        pictures: that count.
        warmup: pictures before them; the second captures CUDA graphs.

    Raises:
        ProviderError: the segmenter computes on the host.
    """
    device = segmenter.network.device
    if not isinstance(device, Gpu):
        raise ProviderError(
            f"{segmenter.bundle.path} is run on the CPU; name its unet.plan with --engine, or a "
            "provider of a GPU with --provider; `mdrt bench latency` times CPUs"
        )
    paper = vars(HEADS["maskdiffusion"].options())  # whatever the bundle recommends
    medians, whole = measure_pictures(
        segmenter, task.image, list(task.classes), pictures, warmup, **paper
    )
    after = sum(medians[name] for name in medians if name not in (*NETWORK, *RIM))
    networks = sum(medians[name] for name in medians if name in NETWORK)
    return {
        "gpu": device.name,
        "backend": segmenter.network.backend.name,
        "precision": segmenter.manifest.precision,
        "size": task.size,
        "classes": len(task.classes),
        "pictures": pictures,
        "stages_s": medians,
        "whole_s": whole,
        "share_after_the_networks": after / (after + networks),
    }


def measure_pictures(
    segmenter: Segmenter,
    image: Callable[[int], NDArray[np.uint8]],
    classes: Sequence[str],
    pictures: int,
    warmup: int,
    **settings: Any,
) -> tuple[dict[str, float], float]:
    """Median seconds by stage, of the device's clock, and of the whole call, of the host's.

    Args:
        segmenter: loaded.
        image: gives the picture of an index.
        classes: the same for every picture.
        pictures: that count.
        warmup: pictures before them, all of index 0.
        settings: how to segment; the rest is as the bundle recommends.
    """
    stages: list[dict[str, float]] = []
    whole: list[float] = []
    for index in track(range(-warmup, pictures), "pictures", console=Console(stderr=True)):
        pixels = image(max(index, 0))
        start = time.perf_counter()
        result = segmenter(pixels, classes, **settings)
        if index >= 0:
            whole.append(time.perf_counter() - start)
            stages.append(result.timings)
    medians = {name: statistics.median(found[name] for found in stages) for name in stages[0]}
    return medians, statistics.median(whole)


def latency_table(report: dict[str, Any]) -> Table:
    """One row a stage, in milliseconds."""
    table = Table(
        title=f"{report['gpu']}, {report['backend']}, {report['precision']}, {report['size']}², "
        f"{report['classes']} classes, medians of {report['pictures']} pictures"
    )
    table.add_column("stage")
    table.add_column("ms", justify="right")
    for name, seconds in report["stages_s"].items():
        table.add_row(name, f"{1000 * seconds:.3f}")
    table.add_section()
    table.add_row("whole call, host's clock", f"{1000 * report['whole_s']:.3f}")
    table.add_row(
        "after the networks, of all on the GPU", f"{report['share_after_the_networks']:.2%}"
    )
    return table


@click.command()
@click.option(
    "-e",
    "--engine",
    type=click.Path(path_type=Path),
    required=True,
    help="A bundle's unet.plan, or a bundle with --provider.",
)
@click.option("--provider", help="ONNX Runtime's, as for `mdrt segment`.")
@click.option("--cuda-graphs/--no-cuda-graphs", default=True)
@click.option("--size", type=click.IntRange(min=1), help="Pixels a side.  [default: the model's]")
@click.option("--classes", "count", type=click.IntRange(1, 19), default=19, show_default=True)
@click.option("--pictures", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    engine: Path,
    provider: str | None,
    cuda_graphs: bool,
    size: int | None,
    count: int,
    pictures: int,
    warmup: int,
    as_json: bool,
) -> None:
    """Time engines on a GPU stage by stage, with its own events.

    \b
    mdrt build sd15-fp16 && python -m mdrt.benchmarks.lab gpu -e sd15-fp16/unet.plan
    """
    segmenter = Segmenter(engine, provider=provider, cuda_graphs=cuda_graphs)
    task = Task(
        str(engine),
        None,
        size or segmenter.manifest.image.native_size,
        CITYSCAPES[:count],
        cache="",
    )
    report = measure(segmenter, task, pictures, warmup)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        Console().print(latency_table(report))
