"""The scenes world: seed → storybook picture, mask and what is visible, always the same.

A scene is drawn in a world of 256×256 units and seen through a view: the whole of it, or
(85 % of the time) a zoomed square, so that no class is in every picture. A word that is
always true carries nothing, and a text-to-image model would never learn where it belongs.
Shapes are drawn at the view's own scale, so a zoomed picture is as crisp as a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

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

MINIMUM_VISIBLE = 60
"""Pixels of a 256² picture a class must cover to count as visible (and be named)."""

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


@dataclass
class _Canvas:
    """Draws every shape twice: its colour on the picture, its class on the mask."""

    view: View
    size: int
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

    def polygon(self, name: str, colour: RGB, points: Sequence[Point]) -> None:
        mapped = self._map(points)
        self._pens[0].polygon(mapped, fill=colour)
        self._pens[1].polygon(mapped, fill=CLASSES.index(name))

    def box(self, name: str, colour: RGB, x0: float, y0: float, x1: float, y1: float) -> None:
        self.polygon(name, colour, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def ellipse(self, name: str, colour: RGB, x: float, y: float, rx: float, ry: float) -> None:
        mapped = self._map([(x - rx, y - ry), (x + rx, y + ry)])
        self._pens[0].ellipse(mapped, fill=colour)
        self._pens[1].ellipse(mapped, fill=CLASSES.index(name))

    def name_colour(self, name: str, words: str) -> None:
        self.colours.setdefault(name, []).append(words)


def _shade(colour: RGB, factor: float) -> RGB:
    r, g, b = (int(min(255, max(0, channel * factor))) for channel in colour)
    return r, g, b


def _jitter(rng: np.random.Generator, colour: RGB, amount: int = 14) -> RGB:
    r, g, b = (int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)
    return r, g, b


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _sky(canvas: _Canvas, rng: np.random.Generator, horizon: float) -> None:
    dusk = rng.random() < 0.3
    top, low = ((150, 90, 140), (245, 170, 140)) if dusk else ((80, 140, 220), (185, 215, 240))
    top, low = _jitter(rng, top), _jitter(rng, low)
    canvas.name_colour("sky", "pink" if dusk else "blue")
    bands = 24
    for band in range(bands):
        share = band / (bands - 1)
        r, g, b = (int(a + (c - a) * share) for a, c in zip(top, low, strict=True))
        y0, y1 = horizon * band / bands, horizon * (band + 1) / bands
        canvas.box("sky", (r, g, b), 0, y0, WORLD, y1 + 1)
    if rng.random() < 0.55:
        _sun(canvas, rng, horizon, dusk)
    for _ in range(int(rng.integers(0, 4))):
        _cloud(canvas, rng, horizon)
    if rng.random() < 0.5:
        _mountains(canvas, rng, horizon)


def _sun(canvas: _Canvas, rng: np.random.Generator, horizon: float, dusk: bool) -> None:
    word = "orange" if dusk else "yellow"
    colour = (250, 150, 70) if dusk else (255, 230, 110)
    radius = rng.uniform(10, 20)
    x, y = rng.uniform(20, WORLD - 20), rng.uniform(20, max(30, horizon - 25))
    canvas.ellipse("sun", _jitter(rng, colour, 8), x, y, radius, radius)
    canvas.name_colour("sun", word)


def _cloud(canvas: _Canvas, rng: np.random.Generator, horizon: float) -> None:
    x, y = rng.uniform(10, WORLD - 10), rng.uniform(12, horizon * 0.6)
    width = rng.uniform(14, 30)
    light = int(rng.integers(225, 250))
    for _ in range(int(rng.integers(4, 8))):
        dx, dy = rng.uniform(-width, width), rng.uniform(-width, width) * 0.25
        radius = rng.uniform(0.35, 0.65) * width
        canvas.ellipse("cloud", (light, light, light), x + dx, y + dy, radius, radius * 0.6)
    canvas.name_colour("cloud", "white")


def _mountains(canvas: _Canvas, rng: np.random.Generator, horizon: float) -> None:
    word = _pick(rng, ("gray", "purple", "brown"))
    base = {"gray": (125, 130, 140), "purple": (120, 100, 145), "brown": (135, 110, 90)}[word]
    for _ in range(int(rng.integers(2, 5))):
        x, height = rng.uniform(-20, WORLD + 20), rng.uniform(30, 75)
        half = height * rng.uniform(0.9, 1.6)
        colour = _jitter(rng, base)
        peak = (x, horizon - height)
        canvas.polygon("mountain", colour, [(x - half, horizon + 1), peak, (x + half, horizon + 1)])
        canvas.polygon(
            "mountain", _shade(colour, 0.85), [(x, horizon + 1), peak, (x + half, horizon + 1)]
        )
    canvas.name_colour("mountain", word)


_GROUND: dict[str, tuple[RGB, str]] = {
    "grass": ((95, 160, 70), "green"),
    "sand": ((222, 198, 145), "yellow"),
    "water": ((60, 120, 175), "blue"),
}


def _ground(canvas: _Canvas, rng: np.random.Generator, horizon: float) -> tuple[str, float]:
    """Paint below the horizon; return the ground's class and where the land begins (y)."""
    kind = str(rng.choice(["grass", "sand", "water"], p=[0.42, 0.3, 0.28]))
    colour, word = _GROUND[kind]
    canvas.box(kind, _jitter(rng, colour, 18), 0, horizon, WORLD, WORLD)
    canvas.name_colour(kind, word)
    land = horizon
    if kind != "water" and rng.random() < 0.35:
        land = horizon + rng.uniform(18, 40)
        canvas.box("water", _jitter(rng, _GROUND["water"][0], 18), 0, horizon, WORLD, land)
        canvas.name_colour("water", "blue")
    return kind, land


def _road(canvas: _Canvas, rng: np.random.Generator, land: float) -> float | None:
    """Paint a road; return the y of a horizontal one (where cars drive), else None."""
    colour = _jitter(rng, (95, 95, 100), 12)
    canvas.name_colour("road", "gray")
    if rng.random() < 0.6:
        y, half = rng.uniform(min(land + 25, 215), WORLD - 25), rng.uniform(11, 18)
        canvas.box("road", colour, 0, y - half, WORLD, y + half)
        for x in range(-5, WORLD, 28):
            canvas.box("road", (225, 220, 200), x, y - 1.2, x + 14, y + 1.2)
        return y
    far, near = rng.uniform(60, 196), rng.uniform(30, 226)
    half = rng.uniform(28, 50)
    canvas.polygon(
        "road",
        colour,
        [(far - 3, land), (far + 3, land), (near + half, WORLD), (near - half, WORLD)],
    )
    return None


def _tree(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    trunk = _jitter(rng, (105, 75, 50))
    canvas.box("tree", trunk, x - size * 0.07, y - size * 0.45, x + size * 0.07, y)
    word = str(rng.choice(["green", "orange"], p=[0.75, 0.25]))
    leaf = _jitter(rng, (40, 105, 50) if word == "green" else (205, 115, 45), 16)
    if rng.random() < 0.5:
        for _ in range(6):
            dx, dy = rng.uniform(-0.26, 0.26) * size, rng.uniform(-0.2, 0.2) * size
            radius = rng.uniform(0.17, 0.27) * size
            shade = _shade(leaf, rng.uniform(0.85, 1.15))
            canvas.ellipse("tree", shade, x + dx, y - size * 0.65 + dy, radius, radius)
    else:
        for tier in range(3):
            half, top = size * (0.34 - 0.08 * tier), y - size * (0.6 + 0.22 * tier)
            points = [
                (x - half, top + size * 0.32),
                (x, top - size * 0.06),
                (x + half, top + size * 0.32),
            ]
            canvas.polygon("tree", _shade(leaf, 0.9 + 0.1 * tier), points)
    canvas.name_colour("tree", word)


def _house(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    wall_word = _pick(rng, ("white", "yellow", "pink", "gray"))
    roof_word = _pick(rng, ("red", "blue", "brown", "black"))
    wall, roof = _jitter(rng, PAINTS[wall_word]), _jitter(rng, PAINTS[roof_word])
    half, height = size * rng.uniform(0.42, 0.55), size * rng.uniform(0.5, 0.65)
    canvas.box("house", wall, x - half, y - height, x + half, y)
    eaves, ridge = half * 1.2, y - height - size * rng.uniform(0.28, 0.4)
    canvas.polygon(
        "house",
        roof,
        [
            (x - eaves, y - height),
            (x - half * 0.25, ridge),
            (x + half * 0.25, ridge),
            (x + eaves, y - height),
        ],
    )
    canvas.box("house", _shade(roof, 0.7), x - half * 0.15, y - height * 0.5, x + half * 0.15, y)
    for side in (-1, 1):
        centre = x + side * half * 0.58
        canvas.box(
            "house",
            (150, 190, 215),
            centre - half * 0.17,
            y - height * 0.75,
            centre + half * 0.17,
            y - height * 0.42,
        )
    canvas.name_colour("house", _pick(rng, (f"{wall_word}", f"{roof_word} roof")))


def _car(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = _pick(rng, ("red", "blue", "white", "black", "orange", "yellow"))
    paint = _jitter(rng, PAINTS[word])
    half, height = size * 0.5, size * 0.24
    canvas.box("car", paint, x - half, y - height, x + half, y - height * 0.25)
    canvas.polygon(
        "car",
        _shade(paint, 0.9),
        [
            (x - half * 0.6, y - height),
            (x - half * 0.35, y - height * 1.8),
            (x + half * 0.35, y - height * 1.8),
            (x + half * 0.65, y - height),
        ],
    )
    canvas.polygon(
        "car",
        (175, 205, 220),
        [
            (x - half * 0.45, y - height * 1.05),
            (x - half * 0.28, y - height * 1.65),
            (x + half * 0.28, y - height * 1.65),
            (x + half * 0.48, y - height * 1.05),
        ],
    )
    for side in (-1, 1):
        canvas.ellipse(
            "car",
            (30, 30, 32),
            x + side * half * 0.58,
            y - height * 0.2,
            height * 0.42,
            height * 0.42,
        )
    canvas.name_colour("car", word)


def _person(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = _pick(rng, ("red", "blue", "yellow", "green", "purple", "white"))
    shirt, legs = _jitter(rng, PAINTS[word]), _jitter(rng, (55, 60, 85))
    skin = _pick_skin(rng)
    for side in (-1, 1):
        canvas.box(
            "person",
            legs,
            x + side * size * 0.08 - size * 0.06,
            y - size * 0.42,
            x + side * size * 0.08 + size * 0.06,
            y,
        )
        canvas.box(
            "person",
            skin,
            x + side * size * 0.2 - size * 0.045,
            y - size * 0.78,
            x + side * size * 0.2 + size * 0.045,
            y - size * 0.45,
        )
    canvas.box("person", shirt, x - size * 0.16, y - size * 0.8, x + size * 0.16, y - size * 0.4)
    canvas.ellipse("person", skin, x, y - size * 0.9, size * 0.1, size * 0.11)
    canvas.name_colour("person", word)


def _pick_skin(rng: np.random.Generator) -> RGB:
    skins: tuple[RGB, ...] = ((240, 205, 175), (200, 150, 115), (120, 80, 60))
    return skins[int(rng.integers(len(skins)))]


def _flowers(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = _pick(rng, ("red", "pink", "yellow", "purple", "white"))
    petal = PAINTS[word]
    for _ in range(int(rng.integers(10, 18))):
        fx, fy = x + rng.uniform(-1, 1) * size, y - rng.uniform(0, 0.55) * size
        radius = size * rng.uniform(0.12, 0.17)
        canvas.ellipse("flower", _jitter(rng, petal, 10), fx, fy, radius, radius * 0.85)
        canvas.ellipse("flower", (240, 220, 120), fx, fy, radius * 0.35, radius * 0.3)
    canvas.name_colour("flower", word)


def _boat(canvas: _Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = _pick(rng, ("red", "white", "brown", "blue"))
    hull = _jitter(rng, PAINTS[word])
    half = size * 0.5
    canvas.polygon(
        "boat",
        hull,
        [
            (x - half, y - size * 0.2),
            (x + half, y - size * 0.2),
            (x + half * 0.65, y),
            (x - half * 0.65, y),
        ],
    )
    canvas.box(
        "boat", (95, 70, 50), x - size * 0.025, y - size * 0.9, x + size * 0.025, y - size * 0.2
    )
    sail = _jitter(rng, (240, 238, 228), 8)
    canvas.polygon(
        "boat",
        sail,
        [
            (x + size * 0.04, y - size * 0.88),
            (x + size * 0.04, y - size * 0.26),
            (x + half * 0.85, y - size * 0.26),
        ],
    )
    canvas.polygon(
        "boat",
        _shade(sail, 0.93),
        [
            (x - size * 0.04, y - size * 0.75),
            (x - size * 0.04, y - size * 0.26),
            (x - half * 0.6, y - size * 0.26),
        ],
    )
    canvas.name_colour("boat", word)


def _objects(
    canvas: _Canvas,
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
            _boat(
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
    draw = {
        "tree": _tree,
        "house": _house,
        "car": _car,
        "person": _person,
        "flower": _flowers,
        "boat": _boat,
    }
    grow = {"tree": 70, "house": 62, "car": 52, "person": 44, "flower": 20, "boat": 58}
    for y, name in sorted(things):
        if name == "car" and road is not None:
            y = road + float(rng.uniform(-2, 8))
        nearness = (y - horizon) / (WORLD - horizon)
        size = grow[name] * (0.45 + 0.85 * nearness) * rng.uniform(0.85, 1.15)
        draw[name](canvas, rng, rng.uniform(8, WORLD - 8), y, size)


def _finish(
    canvas: _Canvas, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Textures that tell the grounds apart, illumination, blur and sensor noise."""
    size, view = canvas.size, canvas.view
    mask = np.asarray(canvas.mask)
    image = np.asarray(canvas.image).astype(np.float32)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    rows = (view.y + np.arange(size, dtype=np.float32) * view.side / size)[:, None]
    columns = (view.x + np.arange(size, dtype=np.float32) * view.side / size)[None, :]
    ripples = np.sin(rows * 0.9 + 2.0 * np.sin(columns * 0.11)) * 9
    texture = np.zeros((size, size), dtype=np.float32)
    for name, value in (("grass", grain * 11), ("sand", grain * 6), ("water", ripples)):
        texture += np.where(mask == CLASSES.index(name), value, np.float32(0))
    image += texture[..., None]
    image *= rng.uniform(0.82, 1.12)
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    image = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6))).astype(np.float32)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    image += noise * np.float32(rng.uniform(1, 4))
    return np.clip(image, 0, 255).astype(np.uint8), mask.copy()


def _choose_view(rng: np.random.Generator) -> View:
    if rng.random() < 0.15:
        return View(0, 0, WORLD)
    close = rng.random() < 0.75
    side = rng.uniform(64, 110) if close else rng.uniform(110, 220)
    top = rng.uniform(100 if close else 20, WORLD - side)
    return View(float(rng.uniform(0, WORLD - side)), float(top), float(side))


def render(seed: int, size: int = 256, zoom: bool = True) -> Scene:
    """Render the scene of a seed.

    Args:
        seed: any non-negative integer; the same seed gives the same bytes.
        size: side of the picture in pixels.
        zoom: see 85 % of the scenes through a zoomed square (the training distribution);
            False shows the whole world.
    """
    rng = np.random.default_rng([seed, 20])
    view = _choose_view(rng)
    canvas = _Canvas(view if zoom else View(0, 0, WORLD), size)
    horizon = float(rng.uniform(90, 170))
    _sky(canvas, rng, horizon)
    kind, land = _ground(canvas, rng, horizon)
    road = _road(canvas, rng, land) if kind != "water" and rng.random() < 0.6 else None
    _objects(canvas, rng, kind, land, road, horizon)
    image, mask = _finish(canvas, rng)
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    enough = MINIMUM_VISIBLE * (size / 256) ** 2
    visible = tuple(name for name, count in zip(CLASSES, counts, strict=True) if count >= enough)
    colours = {name: tuple(words) for name, words in canvas.colours.items()}
    return Scene(image, mask, visible, colours)
