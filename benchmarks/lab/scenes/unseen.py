"""A style that training never sees: a poster of a few paints, of shapes of its own.

Nothing here is shared with the styles of training but the world it is drawn in: it is kept to
tell what a model does on pictures of another hand.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .canvas import CLASSES, RGB, WORLD, Outline, Point, Sheet, Style

Generator = np.random.Generator

TINTS: dict[str, tuple[RGB, RGB]] = {
    "sky": ((150, 205, 205), (205, 230, 215)),
    "cloud": ((250, 240, 225), (225, 215, 215)),
    "sun": ((245, 120, 80), (250, 190, 95)),
    "mountain": ((95, 110, 130), (150, 140, 150)),
    "grass": ((140, 170, 75), (110, 150, 85)),
    "sand": ((235, 205, 160), (215, 180, 135)),
    "water": ((45, 125, 150), (75, 155, 170)),
    "road": ((125, 115, 120), (85, 80, 90)),
    "tree": ((50, 115, 95), (90, 140, 70)),
    "house": ((225, 150, 120), (245, 225, 190)),
    "car": ((215, 70, 75), (65, 95, 145)),
    "boat": ((150, 75, 60), (240, 235, 220)),
    "person": ((110, 70, 120), (60, 110, 120)),
    "flower": ((225, 90, 145), (245, 205, 80)),
}
"""The two paints of each class."""

DARK: RGB = (45, 40, 65)
GROUNDS = ("grass", "sand", "water")


def _ring(x: float, y: float, rx: float, ry: float, corners: int, start: float = 0) -> list[Point]:
    turns = [start + corner * 2 * math.pi / corners for corner in range(corners)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def sky(canvas: Sheet, rng: Generator, horizon: float) -> None:
    """Rays of two paints from a point of the horizon; hexagons, mesas and stepped clouds."""
    light, dark = TINTS["sky"]
    canvas.box("sky", dark, 0, 0, WORLD, horizon + 1)
    middle = rng.uniform(40, WORLD - 40)
    for ray in range(0, 12, 2):
        left, right = (middle - 500 / math.tan((r + 0.5) * math.pi / 13) for r in (ray, ray + 1))
        canvas.polygon(
            "sky", light, [(middle, horizon), (left, horizon - 500), (right, horizon - 500)]
        )
    canvas.box("sky", dark, 0, horizon - 2, WORLD, horizon + 1)
    if rng.random() < 0.55:
        x, y, radius = rng.uniform(20, 236), rng.uniform(20, horizon - 25), rng.uniform(10, 20)
        canvas.polygon("sun", TINTS["sun"][0], _ring(x, y, radius, radius, 6))
        canvas.polygon("sun", TINTS["sun"][1], _ring(x, y, radius * 0.6, radius * 0.6, 6))
    for _ in range(int(rng.integers(0, 4))):
        x, y, width = rng.uniform(10, 246), rng.uniform(12, horizon * 0.6), rng.uniform(14, 30)
        for step in range(3):
            reach, foot = width * (1 - 0.3 * step), y - step * width * 0.28
            paint = TINTS["cloud"][step % 2]
            canvas.box("cloud", paint, x - reach, foot - width * 0.28, x + reach, foot)
    for _ in range(int(rng.integers(2, 5)) if rng.random() < 0.5 else 0):
        x, height = rng.uniform(-20, WORLD + 20), rng.uniform(30, 75)
        for wide, tall, tint in ((1.2, 0.55, 0), (0.72, 1.0, 1)):
            half, top = height * wide, horizon - height * tall
            mesa = [
                (x - half, horizon + 1),
                (x - half * 0.6, top),
                (x + half * 0.6, top),
                (x + half, horizon + 1),
            ]
            canvas.polygon("mountain", TINTS["mountain"][tint], mesa)


def road(canvas: Sheet, rng: Generator, land: float) -> float | None:
    """Slabs of two paints, straight across or towards the horizon in a bend."""
    paints = TINTS["road"]
    if rng.random() < 0.6:
        y, half = rng.uniform(min(land + 25, 215), WORLD - 25), rng.uniform(11, 18)
        for slab in range(-1, 9):
            left = slab * 32
            corners = [
                (left, y + half),
                (left + 16, y - half),
                (left + 49, y - half),
                (left + 33, y + half),
            ]
            canvas.polygon("road", paints[slab % 2], corners)
        return y
    x, half = rng.uniform(60, 196), rng.uniform(24, 45)
    knee = land + 0.45 * (WORLD - land)
    bend = rng.uniform(-50, 50)
    points = [
        (x - 4, land),
        (x + 4, land),
        (x + bend + half * 0.5, knee),
        (x + half, WORLD),
        (x - half, WORLD),
        (x + bend - half * 0.5, knee),
    ]
    canvas.polygon("road", paints[0], points)
    return None


def tree(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Lozenges one over another."""
    canvas.box("tree", DARK, x - size * 0.04, y - size * 0.3, x + size * 0.04, y)
    for step in range(3):
        half = size * (0.3 - 0.06 * step)
        middle = y - size * (0.36 + 0.22 * step)
        paint = TINTS["tree"][step % 2]
        canvas.polygon("tree", paint, _ring(x, middle, half, size * 0.2, 4))


def house(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A roof that reaches the ground, and a round window."""
    half, top = size * 0.55, y - size * rng.uniform(0.85, 1.1)
    roof, wall = rng.permutation(np.array(TINTS["house"])).tolist()
    canvas.polygon("house", tuple(roof), [(x - half, y), (x, top), (x + half, y)])
    canvas.polygon(
        "house", tuple(wall), [(x - half * 0.65, y), (x, top + size * 0.3), (x + half * 0.65, y)]
    )
    canvas.polygon("house", DARK, _ring(x, y - size * 0.32, size * 0.1, size * 0.1, 8))


def car(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A wedge on octagons."""
    body, glass = rng.permutation(np.array(TINTS["car"])).tolist()
    half, way = size * 0.52, 1 if rng.random() < 0.5 else -1
    canvas.polygon(
        "car",
        tuple(body),
        [
            (x - way * half, y - size * 0.42),
            (x + way * half * 0.1, y - size * 0.36),
            (x + way * half, y - size * 0.12),
            (x + way * half, y - size * 0.06),
            (x - way * half, y - size * 0.06),
        ],
    )
    canvas.polygon(
        "car",
        tuple(glass),
        [
            (x - way * half * 0.7, y - size * 0.36),
            (x, y - size * 0.32),
            (x + way * half * 0.3, y - size * 0.2),
            (x - way * half * 0.7, y - size * 0.2),
        ],
    )
    for side in (-0.6, 0.55):
        canvas.polygon(
            "car", DARK, _ring(x + side * half, y - size * 0.09, size * 0.1, size * 0.1, 8, 0.39)
        )


def person(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Two triangles, point to point, and a square head."""
    upper, lower = rng.permutation(np.array(TINTS["person"])).tolist()
    half, waist = size * 0.17, y - size * 0.45
    canvas.polygon("person", tuple(lower), [(x - half, y), (x, waist - size * 0.06), (x + half, y)])
    canvas.polygon(
        "person",
        tuple(upper),
        [(x - half, y - size * 0.8), (x, waist + size * 0.06), (x + half, y - size * 0.8)],
    )
    canvas.box(
        "person", (225, 180, 150), x - size * 0.09, y - size, x + size * 0.09, y - size * 0.8
    )


def flower(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Stars of four points."""
    for number in range(int(rng.integers(8, 14))):
        fx, fy = x + rng.uniform(-1, 1) * size, y - rng.uniform(0, 0.6) * size
        radius = size * rng.uniform(0.16, 0.24)
        points = []
        for corner in range(8):
            reach, turn = radius if corner % 2 == 0 else radius * 0.4, corner * math.pi / 4
            points.append((fx + reach * math.cos(turn), fy + reach * math.sin(turn)))
        canvas.polygon("flower", TINTS["flower"][number % 4 == 3], points)


def boat(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A crescent with two square sails."""
    half = size * 0.5
    arc = [
        (
            x - half * math.cos(step * math.pi / 8),
            y - size * 0.3 + size * 0.3 * math.sin(step * math.pi / 8),
        )
        for step in range(9)
    ]
    canvas.polygon("boat", TINTS["boat"][0], [*arc, (x, y - size * 0.16)])
    for place, height in ((-0.4, 0.55), (0.3, 0.8)):
        left, low = x + place * half, y - size * 0.2
        canvas.box("boat", DARK, left - size * 0.015, low - size * height, left + size * 0.015, low)
        canvas.box(
            "boat",
            TINTS["boat"][1],
            left - half * 0.28,
            low - size * height,
            left + half * 0.28,
            low - size * 0.15,
        )


def ink(name: str, colour: RGB) -> RGB:
    """Grounds, which the renderer paints, in the style's paints; shapes bring theirs."""
    return TINTS[name][0] if name in GROUNDS else colour


def finish(canvas: Sheet, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Zigzags on the grounds, the tooth of paper; neither noise of a sensor nor shading."""
    size, view, mask = canvas.size, canvas.view, np.asarray(canvas.mask).copy()
    image = np.asarray(canvas.image).astype(np.float32)
    places = np.arange(size, dtype=np.float32) * np.float32(view.side / size)
    rows, columns = view.y + places[:, None], view.x + places[None, :]
    zigzag = (rows + 3 * np.abs((columns / 8) % 2 - 1)) % 9 < 1.6
    grounds = np.isin(mask, [CLASSES.index(name) for name in GROUNDS])
    image[grounds & zigzag] *= 0.86
    paper = rng.standard_normal((size // 2, size // 2), dtype=np.float32)
    tooth = Image.fromarray(paper).resize((size, size), Image.Resampling.BILINEAR)
    image += np.asarray(tooth)[..., None] * 3
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.4))).copy(), mask


UNSEEN = Style(
    sky=sky,
    road=road,
    things={
        "tree": tree,
        "house": house,
        "car": car,
        "person": person,
        "flower": flower,
        "boat": boat,
    },
    finish=finish,
    ink=ink,
    outline=Outline(0.7, DARK),
)
