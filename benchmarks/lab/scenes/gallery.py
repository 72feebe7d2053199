"""A page of held-out scenes: the picture, the truth, and what each method makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track

from ....cli.options import engine_option
from ....runtime.disk.atomic import write_atomically
from ....runtime.pictures.palette import palette
from ....runtime.segmenter import Segmenter
from ...metrics import NO_CLASS, Labels, match
from .renderer import CLASSES, WORLD, Scene, render

COLUMNS = ("input", "ground truth", "attention alone", "MaskDiffusion", "unsupervised", "k-means")

LEAST_CLASSES = 4
"""Visible classes of a scene that is shown; emptier ones say little."""

NOTHING = (0, 0, 0)
"""Colour of a segment that matches no class."""

CELL, GAP, HEAD = 176, 6, 26
"""Sides in pixels: of a picture, between pictures, of a line of text."""


def seeds(count: int, first: int = 0) -> Iterator[int]:
    """The first held-out seeds whose scenes show enough classes: no other choice is made."""
    seed = first
    while count:
        if len(render(seed, size=64).visible) >= LEAST_CLASSES:
            count -= 1
            yield seed
        seed += 1


def label_maps(segmenter: Segmenter, scene: Scene) -> list[Labels]:
    """(H, W) maps in `CLASSES` order of every column but the first.

    Named heads get the visible names; unnamed ones as many segments, renamed by Hungarian
    matching.
    """
    index = np.array([CLASSES.index(name) for name in scene.visible])
    look = segmenter.look(scene.image)
    named = (look.segment(scene.visible, attention=1.0), look.segment(scene.visible))
    unnamed = (look.segments(len(scene.visible), head) for head in ("spectral", "kmeans"))
    return [
        scene.mask,
        *(index[found.labels] for found in named),
        *(match(scene.mask, found.labels, len(CLASSES)) for found in unnamed),
    ]


def painted(labels: Labels) -> NDArray[np.uint8]:
    """(H, W, 3) colours of a label map in `CLASSES` order."""
    assert NO_CLASS == -1  # the last
    paint = np.concatenate([palette(CLASSES), np.array([NOTHING], np.uint8)])
    pixels: NDArray[np.uint8] = paint[labels]
    return pixels


def page(segmenter: Segmenter, chosen: list[int]) -> Image.Image:
    """A row a scene, a column a method, a legend above."""
    step = CELL + GAP
    width, top = len(COLUMNS) * step + GAP, 3 * HEAD + GAP
    sheet = Image.new("RGB", (width, top + len(chosen) * step), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    paint = palette(CLASSES)
    for place, name in enumerate(CLASSES):
        x, y = GAP + place % 7 * (width // 7), GAP + place // 7 * HEAD
        red, green, blue = paint[place].tolist()
        pen.rectangle((x, y, x + 16, y + 16), fill=(red, green, blue), outline="black")
        pen.text((x + 22, y - 1), name, fill="black", font=font)
    for column, title in enumerate(COLUMNS):
        pen.text((GAP + column * step, 2 * HEAD + GAP), title, fill="black", font=font)
    for row, seed in enumerate(track(chosen, "segmenting", console=Console(stderr=True))):
        scene = render(seed)
        pictures = [scene.image, *map(painted, label_maps(segmenter, scene))]
        for column, pixels in enumerate(pictures):
            how = Image.Resampling.BOX if column == 0 else Image.Resampling.NEAREST
            cell = Image.fromarray(pixels).resize((CELL, CELL), how)
            sheet.paste(cell, (GAP + column * step, top + row * step))
    return sheet


@click.command()
@engine_option
@click.option("--scenes", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Seed.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("gallery.png"),
    show_default=True,
)
def main(engine: Path | None, scenes: int, first: int, out: Path) -> None:
    """Draw held-out scenes under every method, the visible names in the prompt."""
    sheet = page(Segmenter(engine), list(seeds(scenes, first)))
    sheet = sheet.quantize(256, dither=Image.Dither.NONE)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: sheet.save(file, format="png", optimize=True))
    click.echo(f"wrote {out}, {sheet.width}×{sheet.height} for {WORLD}² scenes")
