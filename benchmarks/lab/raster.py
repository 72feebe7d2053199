"""A raster of drawn scenes, and `mdrt raster` on it: time, memory, accuracy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from ...runtime.segmenter import EMBEDDED
from .scenes.renderer import CLASSES, render

SCENE: Final = 384
"""Pixels a side of a scene: the embedded model's native size."""

DRAWN: Final = 64
"""Different scenes; a larger raster repeats them in another order."""

STYLE: Final = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "compress": "deflate"}


def write_scenes(path: Path, side: int, seed: int = 1000) -> None:
    """Write a raster of scenes, `side` pixels a side, in a real coordinate system, and beside it
    `.truth.tif`, the class of every pixel."""
    rows = -(-side // SCENE)
    scenes = [render(seed + i, size=SCENE) for i in range(min(DRAWN, rows * rows))]
    order = np.random.default_rng(seed).integers(0, len(scenes), (rows, rows))
    order.flat[: len(scenes)] = np.arange(len(scenes))
    place = {"crs": "EPSG:32633", "transform": from_origin(499_999.5, 5_300_000.5, 0.5, 0.5)}
    shape = {"height": side, "width": side, **place, **STYLE}
    with (
        rasterio.open(path, "w", count=3, **shape) as pictures,
        rasterio.open(truth_of(path), "w", count=1, **shape) as truths,
    ):
        for row in range(rows):
            height = min(SCENE, side - row * SCENE)
            band = np.concatenate([scenes[i].image for i in order[row]], axis=1)
            mask = np.concatenate([scenes[i].mask for i in order[row]], axis=1)
            window = Window(0, row * SCENE, side, height)
            pictures.write(band[:height, :side].transpose(2, 0, 1), window=window)
            truths.write(mask[:height, :side], 1, window=window)


def truth_of(path: Path) -> Path:
    """The classes of a raster of scenes."""
    return path.with_suffix(".truth.tif")


def measured(path: Path, labels: Path, options: list[str]) -> tuple[float, float]:
    """One `mdrt raster` process: seconds, and peak resident MB."""
    code = "from mdrt.cli import main; main(prog_name='mdrt')"
    command = [sys.executable, "-P", "-c", code, "raster", str(path), str(labels), *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"mdrt raster ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def right(path: Path, labels: Path) -> float:
    """The share of pixels whose class is the one that was drawn."""
    same = 0
    with rasterio.open(truth_of(path)) as truths, rasterio.open(labels) as found:
        for _, window in found.block_windows(1):
            truth: NDArray[np.uint8] = truths.read(1, window=window)
            same += int((truth == found.read(1, window=window)).sum())
        return float(same / (found.height * found.width))


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--side", default=20_000, show_default=True, help="Pixels a side.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/raster"))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(side: int, out: Path, options: tuple[str, ...]) -> None:
    """Draw a raster, segment it with the embedded model and tell what that took; what is not an
    option of this command is one of `mdrt raster`. If it is killed, it goes on where it was."""
    out.mkdir(parents=True, exist_ok=True)
    path, labels = out / f"scenes-{side}.tif", out / f"labels-{side}.tif"
    if not truth_of(path).exists():
        aside = out / "drawn.tif"
        write_scenes(aside, side)
        aside.replace(path)
        truth_of(aside).replace(truth_of(path))
    names = (
        ["--classes", ", ".join(CLASSES)]
        if not {"--unsupervised", "--segments"} & {*options}
        else []
    )
    seconds, peak = measured(path, labels, ["--engine", str(EMBEDDED), *names, *options])
    record = json.loads(labels.with_suffix(".json").read_text())
    tiles = record["settings"]["tiles"]
    click.echo(f"{side}²: {seconds:.0f} s, {tiles} tiles, at most {peak:.0f} MB")
    if names:
        click.echo(f"{right(path, labels):.1%} of pixels have the class that was drawn")
