"""The first impression, measured: `mdrt segment` cold, warm, and its peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ...runtime.segmenter import Segmenter
from .scenes.renderer import CLASSES, render


def cold(picture: Path, folder: Path) -> tuple[float, float]:
    """One `mdrt segment` process: (seconds of wall time, peak resident MB)."""
    code = "from mdrt.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "segment", str(picture), "--out", str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise click.ClickException(f"mdrt segment ended with status {status}")
    return seconds, usage.ru_maxrss / 1024


def warm(runs: int, **call: object) -> float:
    """Median seconds of a call on a loaded model, after two calls that do not count."""
    segmenter, image = Segmenter(), render(6).image
    seconds = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        segmenter(image, **call)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def other_words(runs: int) -> float:
    """Median seconds of a list of 19 names on a look that has shown others, each list another."""
    random = np.random.default_rng(0)
    seconds = []
    with Segmenter() as segmenter:
        known = (*segmenter.manifest.classes, *segmenter.manifest.synonyms)
        look = segmenter.look(render(6).image)
        for _ in range(runs + 2):
            names = random.choice(known, 19, replace=False).tolist()
            start = time.perf_counter()
            look.segment(names, words="late")
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


@click.command()
@click.option("--runs", default=15, show_default=True)
def main(runs: int) -> None:
    """Print cold and warm times of one 256² picture and 14 classes, and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scene.png"
        Image.fromarray(render(6).image).save(picture)
        colds = [cold(picture, Path(folder) / "out") for _ in range(4)][1:]
    table = Table("embedded model, 256², 14 classes", "median")
    table.add_row("cold `mdrt segment`", f"{statistics.median(s for s, _ in colds):.2f} s")
    table.add_row("its peak memory", f"{statistics.median(m for _, m in colds):.0f} MB")
    table.add_row("warm call, named", f"{warm(runs, classes=CLASSES):.3f} s")
    table.add_row("19 other names on the same look, late", f"{other_words(runs):.3f} s")
    table.add_row("warm call, unnamed (auto)", f"{warm(runs, segments='auto'):.3f} s")
    Console().print(table)
