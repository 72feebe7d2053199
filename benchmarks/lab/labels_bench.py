"""What label formats take: megapixels a second, and the memory of a long run."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import numpy as np

from ...kernels import Grid
from ...runtime.pictures.render import Labels
from ...runtime.segmentation import Segmentation
from ...runtime.writers import find_format
from ...runtime.writers.base import Picture, Run
from ...runtime.writers.brush import brush_rle
from ...runtime.writers.coco import annotation
from ...runtime.writers.contours import regions
from ...runtime.writers.cvat import boxed
from ...runtime.writers.folder import Folder
from ...runtime.writers.runs import class_runs
from .scenes.renderer import CLASSES, render

REPEATS: Final = 5


def encoders(labels: Labels) -> dict[str, Callable[[], object]]:
    """Every class of a picture by each way to write masks as text."""
    count, (height, width) = len(CLASSES), labels.shape
    return {
        "Label Studio brush": lambda: [brush_rle(runs) for runs in class_runs(labels, count)],
        "CVAT": lambda: [boxed(runs, width) for runs in class_runs(labels, count)],
        "COCO RLE": lambda: [
            annotation(runs, height, 0.0) for runs in class_runs(labels, count, by_columns=True)
        ],
        "polygons": lambda: regions(labels),
    }


def best_of(work: Callable[[], object]) -> float:
    """Seconds of the quickest repeat."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def long_run(labels: Labels, pictures: int, folder: Path) -> tuple[float, float]:
    """Growth of this process's peak memory in MiB, and bytes of the JSON in MB, of a COCO run."""
    names = tuple(CLASSES)
    zeros = np.zeros(labels.shape, np.float32)
    grid = Grid(zeros[None, :1, :1])
    image = np.zeros((*labels.shape, 3), np.uint8)
    result = Segmentation(labels, names, zeros, None, grid, {}, {}, image, None, "scenes", "0" * 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    into = Folder(folder, find_format("coco"), Run(names, None, "scenes", "0" * 64, {"head": "-"}))
    for number in range(pictures):
        into.write(result, Picture(str(number), f"{number}.jpg"))
    into.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown / 1024, (folder / "annotations.json").stat().st_size / 1e6


@click.command()
@click.option("--pictures", default=10_000, show_default=True, help="Of the long run.")
@click.option("--side", default=4096, show_default=True, help="Of the picture that is encoded.")
def main(pictures: int, side: int) -> None:
    """Encode a held-out scene, enlarged, by each format; then write a long run."""
    mask = render(6).mask.astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        grown, size = long_run(mask[::4, ::4].copy(), pictures, Path(folder) / "coco")
    click.echo(f"COCO of {pictures} pictures: {size:.0f} MB of JSON, {grown:.0f} MiB more memory")
    factor = -(-side // len(mask))
    labels = np.ascontiguousarray(
        np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)[:side, :side]
    )
    present = len(np.unique(labels))
    for name, work in encoders(labels).items():
        speed = labels.size / best_of(work) / 1e6
        click.echo(f"{name:20} {speed:8.0f} megapixels a second, {present} classes at once")
