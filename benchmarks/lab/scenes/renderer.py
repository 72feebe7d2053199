"""The scenes world: seed → storybook picture, mask and what is visible, always the same.

A scene is drawn in a world of 256×256 units and seen through a view: the whole of it, or
(85 % of the time) a zoomed square, so that no class is in every picture. A word that is
always true carries nothing, and a text-to-image model would never learn where it belongs.
Shapes are drawn at the view's own scale, so a zoomed picture is as crisp as a whole one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .canvas import CLASSES, COLOURS, PAINTS, RGB, WORLD, Sheet, Style, View, jitter
from .plain import PLAIN
from .styles import varied
from .unseen import UNSEEN

__all__ = [
    "CLASSES",
    "COLOURS",
    "MINIMUM_VISIBLE",
    "PAINTS",
    "WORLD",
    "Scene",
    "StyleName",
    "render",
]

MINIMUM_VISIBLE = 60
"""Pixels of a 256² picture a class must cover to count as visible (and be named)."""

StyleName = Literal["plain", "varied", "unseen"]
"""The house style; one drawn from the seed; one that training never sees."""


@dataclass(frozen=True)
class Scene:
    """One rendered picture.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        mask: (size, size) uint8, index into `CLASSES` for every pixel.
        visible: the classes covering at least `MINIMUM_VISIBLE` pixels (scaled to the size).
        colours: for some classes, the colour words that are true of what is drawn.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    visible: tuple[str, ...]
    colours: dict[str, tuple[str, ...]]


_GROUND: dict[str, tuple[RGB, str]] = {
    "grass": ((95, 160, 70), "green"),
    "sand": ((222, 198, 145), "yellow"),
    "water": ((60, 120, 175), "blue"),
}


def _ground(canvas: Sheet, rng: np.random.Generator, horizon: float) -> tuple[str, float]:
    """Paint below the horizon; return the ground's class and where the land begins (y)."""
    kind = str(rng.choice(["grass", "sand", "water"], p=[0.42, 0.3, 0.28]))
    colour, word = _GROUND[kind]
    canvas.box(kind, jitter(rng, colour, 18), 0, horizon, WORLD, WORLD)
    canvas.name_colour(kind, word)
    land = horizon
    if kind != "water" and rng.random() < 0.35:
        land = horizon + rng.uniform(18, 40)
        canvas.box("water", jitter(rng, _GROUND["water"][0], 18), 0, horizon, WORLD, land)
        canvas.name_colour("water", "blue")
    return kind, land


def _objects(
    style: Style,
    canvas: Sheet,
    rng: np.random.Generator,
    kind: str,
    land: float,
    road: float | None,
    horizon: float,
) -> None:
    """Things on the ground, from far to near, growing with nearness."""
    things: list[tuple[float, str]] = []
    if kind == "water":
        things += [
            (rng.uniform(land + 15, WORLD - 8), "boat") for _ in range(int(rng.integers(0, 4)))
        ]
    else:
        if land > horizon and rng.random() < 0.6:
            style.things["boat"](
                canvas,
                rng,
                rng.uniform(20, WORLD - 20),
                land - rng.uniform(2, 8),
                rng.uniform(16, 26),
            )
        counts = {
            "tree": 3 if kind == "sand" else 5,
            "house": 3,
            "car": 2,
            "person": 3,
            "flower": 3,
        }
        for name, most in counts.items():
            if rng.random() < 0.6:
                things += [
                    (rng.uniform(land + 10, WORLD - 4), name)
                    for _ in range(int(rng.integers(1, most + 1)))
                ]
    grow = {"tree": 70, "house": 62, "car": 52, "person": 44, "flower": 20, "boat": 58}
    for y, name in sorted(things):
        if name == "car" and road is not None:
            y = road + float(rng.uniform(-2, 8))
        nearness = (y - horizon) / (WORLD - horizon)
        size = grow[name] * (0.45 + 0.85 * nearness) * rng.uniform(0.85, 1.15)
        style.things[name](canvas, rng, rng.uniform(8, WORLD - 8), y, size)


def _choose_view(rng: np.random.Generator) -> View:
    if rng.random() < 0.15:
        return View(0, 0, WORLD)
    close = rng.random() < 0.75
    side = rng.uniform(64, 110) if close else rng.uniform(110, 220)
    top = rng.uniform(100 if close else 20, WORLD - side)
    return View(float(rng.uniform(0, WORLD - side)), float(top), float(side))


def render(seed: int, size: int = 256, zoom: bool = True, style: StyleName = "plain") -> Scene:
    """Render the scene of a seed.

    Args:
        seed: any non-negative integer; the same seed gives the same bytes.
        size: side of the picture in pixels.
        zoom: see 85 % of the scenes through a zoomed square (the training distribution);
            False shows the whole world.
        style: what it is drawn in. Another style of a seed is the same view of another
            scene of the same kind: what is drawn otherwise takes other numbers.
    """
    rng = np.random.default_rng([seed, 20])
    view = _choose_view(rng)
    drawn = varied(seed) if style == "varied" else {"plain": PLAIN, "unseen": UNSEEN}[style]
    canvas = drawn.canvas(view if zoom else View(0, 0, WORLD), size)
    horizon = float(rng.uniform(90, 170))
    drawn.sky(canvas, rng, horizon)
    kind, land = _ground(canvas, rng, horizon)
    road = drawn.road(canvas, rng, land) if kind != "water" and rng.random() < 0.6 else None
    _objects(drawn, canvas, rng, kind, land, road, horizon)
    image, mask = drawn.finish(canvas, rng)
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    enough = MINIMUM_VISIBLE * (size / 256) ** 2
    visible = tuple(name for name, count in zip(CLASSES, counts, strict=True) if count >= enough)
    colours = {name: tuple(words) for name, words in canvas.colours.items()}
    return Scene(image, mask, visible, colours)
