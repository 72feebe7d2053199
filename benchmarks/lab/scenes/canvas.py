"""What scenes are drawn with: the classes, the paints, and a canvas of picture and mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = (
    "sky",
    "cloud",
    "sun",
    "mountain",
    "grass",
    "sand",
    "water",
    "road",
    "tree",
    "house",
    "car",
    "boat",
    "person",
    "flower",
)
"""Mask value = position in this tuple."""

COLOURS = np.array(
    [
        (135, 190, 240),
        (232, 238, 246),
        (255, 214, 10),
        (140, 122, 145),
        (126, 196, 86),
        (236, 206, 146),
        (38, 98, 184),
        (92, 92, 100),
        (30, 104, 50),
        (196, 84, 62),
        (226, 30, 110),
        (122, 66, 24),
        (255, 150, 96),
        (196, 82, 214),
    ],
    dtype=np.uint8,
)
"""(classes, 3) RGB that a label map of scenes is drawn in: near what things look like."""

WORLD = 256
"""Side of the world in its own units; the default picture has as many pixels."""

RGB = tuple[int, int, int]
Point = tuple[float, float]

PAINTS: dict[str, RGB] = {
    "red": (200, 50, 45),
    "blue": (55, 90, 190),
    "yellow": (230, 200, 60),
    "white": (235, 235, 230),
    "black": (45, 45, 50),
    "green": (60, 150, 80),
    "orange": (235, 140, 50),
    "purple": (140, 80, 170),
    "pink": (235, 130, 170),
    "brown": (130, 90, 60),
    "gray": (140, 140, 145),
}


@dataclass(frozen=True)
class View:
    """The square of the world a picture shows: top-left corner and side, in world units."""

    x: float
    y: float
    side: float


OUTLINED = frozenset(CLASSES) - {"sky", "grass", "sand", "water", "road"}
"""What a style may draw a line around: grounds are painted in bands that no line should part."""


@dataclass(frozen=True)
class Outline:
    """A line around things: its width in world units, its colour (None: the thing's, darker)."""

    width: float
    colour: RGB | None = None


@dataclass
class Sheet:
    """Draws every shape twice: its colour on the picture, its class on the mask.

    A style may change what colours become on the picture, take back the words for those it
    changed beyond recognition, and draw a line around things; the mask knows of none of it.
    """

    view: View
    size: int
    ink: Callable[[str, RGB], RGB] | None = None
    unnamed: frozenset[str] = frozenset()
    outline: Outline | None = None
    image: Image.Image = field(init=False)
    mask: Image.Image = field(init=False)
    colours: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.size, self.size))
        self.mask = Image.new("L", (self.size, self.size))
        self._pens = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask))
        self._scale = self.size / self.view.side

    def _map(self, points: Sequence[Point]) -> list[Point]:
        return [
            ((x - self.view.x) * self._scale, (y - self.view.y) * self._scale) for x, y in points
        ]

    def _fill(self, name: str, colour: RGB) -> dict[str, Any]:
        """How the picture's pen draws a shape; a line lies within the shape it is around."""
        colour = self.ink(name, colour) if self.ink else colour
        if self.outline is None or name not in OUTLINED:
            return {"fill": colour}
        line = self.outline.colour or shade(colour, 0.45)
        width = max(1, round(self.outline.width * self._scale))
        return {"fill": colour, "outline": line, "width": width}

    def polygon(self, name: str, colour: RGB, points: Sequence[Point]) -> None:
        mapped = self._map(points)
        self._pens[0].polygon(mapped, **self._fill(name, colour))
        self._pens[1].polygon(mapped, fill=CLASSES.index(name))

    def box(self, name: str, colour: RGB, x0: float, y0: float, x1: float, y1: float) -> None:
        self.polygon(name, colour, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def ellipse(self, name: str, colour: RGB, x: float, y: float, rx: float, ry: float) -> None:
        mapped = self._map([(x - rx, y - ry), (x + rx, y + ry)])
        self._pens[0].ellipse(mapped, **self._fill(name, colour))
        self._pens[1].ellipse(mapped, fill=CLASSES.index(name))

    def name_colour(self, name: str, words: str) -> None:
        if name not in self.unnamed:
            self.colours.setdefault(name, []).append(words)


Sky = Callable[[Sheet, np.random.Generator, float], None]
"""Draws all above the horizon (y)."""
Road = Callable[[Sheet, np.random.Generator, float], float | None]
"""Draws a road on land that begins at y; the y of a horizontal one, where cars drive."""
Thing = Callable[[Sheet, np.random.Generator, float, float, float], None]
"""Draws a thing with the middle of its foot at (x, y), of a size in world units."""
Finish = Callable[[Sheet, np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Makes the (H, W, 3) picture and the (H, W) mask of what was drawn: textures, light, noise."""


@dataclass(frozen=True)
class Style:
    """How everything in a scene looks; where it stands is the renderer's."""

    sky: Sky
    road: Road
    things: Mapping[str, Thing]
    finish: Finish
    ink: Callable[[str, RGB], RGB] | None = None
    unnamed: frozenset[str] = frozenset()
    outline: Outline | None = None

    def canvas(self, view: View, size: int) -> Sheet:
        return Sheet(view, size, self.ink, self.unnamed, self.outline)


def shade(colour: RGB, factor: float) -> RGB:
    r, g, b = (int(min(255, max(0, channel * factor))) for channel in colour)
    return r, g, b


def jitter(rng: np.random.Generator, colour: RGB, amount: int = 14) -> RGB:
    r, g, b = (int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)
    return r, g, b


def pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
