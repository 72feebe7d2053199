"""The picture of the README: scenes, their named classes, their unnamed segments."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from PIL import Image, ImageDraw, ImageFont

from ....cli.options import engine_option
from ....runtime.disk.atomic import write_atomically
from ....runtime.pictures.render import painted
from ....runtime.segmentation import Segmentation
from ....runtime.segmenter import Segmenter
from .renderer import WORLD, render

TITLES: Final = ("a picture", "the classes you name", "segments without names")

SIDE: Final = 400
"""Pixels of a picture; the network sees 256, masks are of this size."""

GAP, HEAD, ROUND = 12, 34, 14
GREY: Final = (128, 134, 142)
"""Of titles, which are read on light pages and on dark ones."""


def page(segmenter: Segmenter, seeds: list[int]) -> Image.Image:
    """A row a scene; transparent where no picture is."""
    step = SIDE + GAP
    sheet = Image.new("RGBA", (3 * step - GAP, HEAD + len(seeds) * step - GAP), (0, 0, 0, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    corners = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, SIDE - 1, SIDE - 1), ROUND, fill=255)
    for column, title in enumerate(TITLES):
        pen.text((column * step + SIDE / 2, HEAD / 2), title, GREY, font=font, anchor="mm")
    for row, seed in enumerate(seeds):
        scene = render(seed, size=SIDE)
        look = segmenter.look(scene.image, max_size=WORLD)
        results = (look.segment(scene.visible), look.segments("auto"))
        pictures = [Image.fromarray(scene.image), *map(_painted, results)]
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * step, HEAD + row * step), corners)
    return sheet


def _painted(result: Segmentation) -> Image.Image:
    return painted(result.image, result.labels, result.classes)


@click.command()
@engine_option
@click.option("--seeds", default="0,1,2", show_default=True, help="Of the scenes, held-out ones.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("showcase.png"),
    show_default=True,
)
def main(engine: Path | None, seeds: str, out: Path) -> None:
    """Draw scenes beside what mdrt makes of them, with the visible names and without."""
    sheet = page(Segmenter(engine), [int(seed) for seed in seeds.split(",")])
    small = sheet.quantize(255, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: small.save(file, format="png", optimize=True))
    click.echo(f"wrote {out}, {small.width}×{small.height}")
