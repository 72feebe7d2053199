"""What scoring a picture costs beside what the networks take."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ...cli.options import engine_option
from ...runtime.look.prompts import read_classes, synonyms
from ...runtime.segmenter import Segmenter
from ..accuracy.datasets.registry import class_file
from ..accuracy.protocols import PROTOCOLS, boundary_counts
from ..accuracy.store import Store

SCORED = ("miou", "miou-256x352", "hungarian-image", "hungarian-dataset")
"""The protocols that compare in different ways."""

NETWORK_STAGES = ("vae", "text", "unet")


def label_map(classes: int, side: int, seed: int) -> NDArray[np.uint8]:
    """(side, side) labels in [0, classes), in patches of 1/16 of the side."""
    cells = np.random.default_rng(seed).integers(0, classes, (16, 16), dtype=np.uint8)
    patch = -(-side // 16)
    return cells.repeat(patch, axis=0).repeat(patch, axis=1)[:side, :side]


def scoring_seconds(classes: int, side: int, pictures: int) -> dict[str, float]:
    """Median seconds a picture by protocol, counting and keeping the counts in a results file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(
            Path(folder) / "results.sqlite", {"classes": [[str(i)] for i in range(classes)]}
        )
        found: dict[str, list[float]] = {}
        for seed in range(pictures + 2):
            truth, labels = (
                label_map(classes, side, 2 * seed),
                label_map(classes, side, 2 * seed + 1),
            )
            for name in SCORED:
                start = time.perf_counter()
                counts = PROTOCOLS[name].count(truth, labels.astype(np.int64), classes)
                store.add(f"{seed}", {name: counts}, {})
                found.setdefault(name, []).append(time.perf_counter() - start)
            start = time.perf_counter()
            boundary_counts(truth, labels, classes)
            found.setdefault("boundary IoU", []).append(time.perf_counter() - start)
    return {name: statistics.median(seconds[2:]) for name, seconds in found.items()}


def network_seconds(engine: Path | None, classes: int, side: int, runs: int) -> float:
    """Median seconds a picture that the networks of a bundle take with the first class names of
    COCO-Stuff, the text encoded once."""
    segmenter = Segmenter(engine)
    names = [synonyms(names) for names in read_classes(class_file("cocostuff171"))][:classes]
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    seconds = []
    for _ in range(runs + 1):
        timings = segmenter(image, names).timings
        seconds.append(sum(timings[stage] for stage in NETWORK_STAGES))
    return statistics.median(seconds[1:])


@click.command()
@engine_option
@click.option("--classes", type=click.IntRange(1, 171), default=171, show_default=True)
@click.option(
    "--size", "side", type=click.IntRange(16), default=512, show_default=True, help="Side."
)
@click.option("--pictures", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--runs", type=click.IntRange(1), default=3, show_default=True, help="Of the networks."
)
@click.option("--json", "to_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    engine: Path | None, classes: int, side: int, pictures: int, runs: int, to_json: bool
) -> None:
    """What scoring costs beside the networks, which it overlaps in a thread of its own."""
    scoring = scoring_seconds(classes, side, pictures)
    network = network_seconds(engine, classes, side, runs)
    if to_json:
        click.echo(json.dumps({"network_s": network, "scoring_s": scoring}, indent=2))
        return
    table = Table(title=f"{side}², {classes} classes; the networks take {network:.3g} s a picture")
    for column in ("protocol", "ms a picture", "5,000 pictures", "share of the networks' time"):
        table.add_column(column, justify="left" if column == "protocol" else "right")
    for name, seconds in scoring.items():
        share = f"{100 * seconds / network:.2g} %"
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{5_000 * seconds:.0f} s", share)
    Console().print(table)
