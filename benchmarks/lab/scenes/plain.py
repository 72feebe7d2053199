"""The plain style: what a scene looks like where nothing else is asked for.

Things are drawn at (x, y), the middle of their foot, with a size in world units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .canvas import CLASSES, PAINTS, RGB, WORLD, Sheet, Style, jitter, pick, shade


def sky(canvas: Sheet, rng: np.random.Generator, horizon: float) -> None:
    dusk = rng.random() < 0.3
    top, low = ((150, 90, 140), (245, 170, 140)) if dusk else ((80, 140, 220), (185, 215, 240))
    top, low = jitter(rng, top), jitter(rng, low)
    canvas.name_colour("sky", "pink" if dusk else "blue")
    bands = 24
    for band in range(bands):
        share = band / (bands - 1)
        r, g, b = (int(a + (c - a) * share) for a, c in zip(top, low, strict=True))
        y0, y1 = horizon * band / bands, horizon * (band + 1) / bands
        canvas.box("sky", (r, g, b), 0, y0, WORLD, y1 + 1)
    if rng.random() < 0.55:
        sun(canvas, rng, horizon, dusk)
    for _ in range(int(rng.integers(0, 4))):
        cloud(canvas, rng, horizon)
    if rng.random() < 0.5:
        mountains(canvas, rng, horizon)


def sun(canvas: Sheet, rng: np.random.Generator, horizon: float, dusk: bool) -> None:
    word = "orange" if dusk else "yellow"
    colour = (250, 150, 70) if dusk else (255, 230, 110)
    radius = rng.uniform(10, 20)
    x, y = rng.uniform(20, WORLD - 20), rng.uniform(20, max(30, horizon - 25))
    canvas.ellipse("sun", jitter(rng, colour, 8), x, y, radius, radius)
    canvas.name_colour("sun", word)


def cloud(canvas: Sheet, rng: np.random.Generator, horizon: float) -> None:
    x, y = rng.uniform(10, WORLD - 10), rng.uniform(12, horizon * 0.6)
    width = rng.uniform(14, 30)
    light = int(rng.integers(225, 250))
    for _ in range(int(rng.integers(4, 8))):
        dx, dy = rng.uniform(-width, width), rng.uniform(-width, width) * 0.25
        radius = rng.uniform(0.35, 0.65) * width
        canvas.ellipse("cloud", (light, light, light), x + dx, y + dy, radius, radius * 0.6)
    canvas.name_colour("cloud", "white")


def mountains(canvas: Sheet, rng: np.random.Generator, horizon: float) -> None:
    word = pick(rng, ("gray", "purple", "brown"))
    base = {"gray": (125, 130, 140), "purple": (120, 100, 145), "brown": (135, 110, 90)}[word]
    for _ in range(int(rng.integers(2, 5))):
        x, height = rng.uniform(-20, WORLD + 20), rng.uniform(30, 75)
        half = height * rng.uniform(0.9, 1.6)
        colour = jitter(rng, base)
        peak = (x, horizon - height)
        canvas.polygon("mountain", colour, [(x - half, horizon + 1), peak, (x + half, horizon + 1)])
        canvas.polygon(
            "mountain", shade(colour, 0.85), [(x, horizon + 1), peak, (x + half, horizon + 1)]
        )
    canvas.name_colour("mountain", word)


def road(canvas: Sheet, rng: np.random.Generator, land: float) -> float | None:
    """Paint a road; return the y of a horizontal one (where cars drive), else None."""
    colour = jitter(rng, (95, 95, 100), 12)
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


def tree(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    trunk = jitter(rng, (105, 75, 50))
    canvas.box("tree", trunk, x - size * 0.07, y - size * 0.45, x + size * 0.07, y)
    word = str(rng.choice(["green", "orange"], p=[0.75, 0.25]))
    leaf = jitter(rng, (40, 105, 50) if word == "green" else (205, 115, 45), 16)
    if rng.random() < 0.5:
        for _ in range(6):
            dx, dy = rng.uniform(-0.26, 0.26) * size, rng.uniform(-0.2, 0.2) * size
            radius = rng.uniform(0.17, 0.27) * size
            tone = shade(leaf, rng.uniform(0.85, 1.15))
            canvas.ellipse("tree", tone, x + dx, y - size * 0.65 + dy, radius, radius)
    else:
        for tier in range(3):
            half, top = size * (0.34 - 0.08 * tier), y - size * (0.6 + 0.22 * tier)
            points = [
                (x - half, top + size * 0.32),
                (x, top - size * 0.06),
                (x + half, top + size * 0.32),
            ]
            canvas.polygon("tree", shade(leaf, 0.9 + 0.1 * tier), points)
    canvas.name_colour("tree", word)


def house(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    wall_word = pick(rng, ("white", "yellow", "pink", "gray"))
    roof_word = pick(rng, ("red", "blue", "brown", "black"))
    wall, roof = jitter(rng, PAINTS[wall_word]), jitter(rng, PAINTS[roof_word])
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
    canvas.box("house", shade(roof, 0.7), x - half * 0.15, y - height * 0.5, x + half * 0.15, y)
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
    canvas.name_colour("house", pick(rng, (f"{wall_word}", f"{roof_word} roof")))


def car(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = pick(rng, ("red", "blue", "white", "black", "orange", "yellow"))
    paint = jitter(rng, PAINTS[word])
    half, height = size * 0.5, size * 0.24
    canvas.box("car", paint, x - half, y - height, x + half, y - height * 0.25)
    canvas.polygon(
        "car",
        shade(paint, 0.9),
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


def person(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = pick(rng, ("red", "blue", "yellow", "green", "purple", "white"))
    shirt, legs = jitter(rng, PAINTS[word]), jitter(rng, (55, 60, 85))
    skin = skin_tone(rng)
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


def skin_tone(rng: np.random.Generator) -> RGB:
    skins: tuple[RGB, ...] = ((240, 205, 175), (200, 150, 115), (120, 80, 60))
    return skins[int(rng.integers(len(skins)))]


def flowers(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = pick(rng, ("red", "pink", "yellow", "purple", "white"))
    petal = PAINTS[word]
    for _ in range(int(rng.integers(10, 18))):
        fx, fy = x + rng.uniform(-1, 1) * size, y - rng.uniform(0, 0.55) * size
        radius = size * rng.uniform(0.12, 0.17)
        canvas.ellipse("flower", jitter(rng, petal, 10), fx, fy, radius, radius * 0.85)
        canvas.ellipse("flower", (240, 220, 120), fx, fy, radius * 0.35, radius * 0.3)
    canvas.name_colour("flower", word)


def boat(canvas: Sheet, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    word = pick(rng, ("red", "white", "brown", "blue"))
    hull = jitter(rng, PAINTS[word])
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
    sail = jitter(rng, (240, 238, 228), 8)
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
        shade(sail, 0.93),
        [
            (x - size * 0.04, y - size * 0.75),
            (x - size * 0.04, y - size * 0.26),
            (x - half * 0.6, y - size * 0.26),
        ],
    )
    canvas.name_colour("boat", word)


def finish(canvas: Sheet, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
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


PLAIN = Style(
    sky=sky,
    road=road,
    things={
        "tree": tree,
        "house": house,
        "car": car,
        "person": person,
        "flower": flowers,
        "boat": boat,
    },
    finish=finish,
)
