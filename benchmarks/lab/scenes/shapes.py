"""Other shapes for what the plain style draws; varied styles choose among both.

Things are drawn at (x, y), the middle of their foot, with a size in world units.
"""

from __future__ import annotations

import math

import numpy as np

from . import plain
from .canvas import PAINTS, RGB, WORLD, Point, Sheet, Thing, jitter, pick, shade

Generator = np.random.Generator

SKIES: dict[str, RGB] = {
    "blue": (85, 145, 215),
    "pink": (225, 150, 175),
    "gray": (165, 172, 180),
    "orange": (240, 170, 95),
    "purple": (120, 95, 165),
    "black": (35, 38, 62),
    "yellow": (240, 222, 150),
}


def _paint(rng: Generator, *words: str) -> tuple[str, RGB]:
    """One of these colour words, and a paint near it."""
    word = pick(rng, words)
    return word, jitter(rng, PAINTS[word], 20)


def _wavy(rng: Generator, y: float, height: float) -> list[Point]:
    """A wavy line around y, from the left edge of the world to the right."""
    phase, turns = rng.uniform(0, 6.28), rng.uniform(0.5, 3) * 6.28
    steps = [step / 24 for step in range(25)]
    return [(share * WORLD, y + height * math.sin(phase + turns * share)) for share in steps]


def sky(canvas: Sheet, rng: Generator, horizon: float) -> None:
    """One colour or some bands, lighter or darker towards the horizon, and what stands there."""
    word = pick(rng, ("blue", "blue", "blue", *SKIES))
    red, green, blue = jitter(rng, SKIES[word], 25)
    canvas.name_colour("sky", word)
    bands, light = int(rng.choice([1, 3, 6, 24])), rng.uniform(-50, 90)
    for band in range(bands):
        more = light * band / max(1, bands - 1)
        low, high = horizon * band / bands, horizon * (band + 1) / bands + 1
        colour = (int(red + more), int(green + more), int(blue + more))
        canvas.box("sky", shade(colour, 1.0), 0, low, WORLD, high)
    if rng.random() < 0.5:
        sun(canvas, rng, horizon)
    for _ in range(int(rng.integers(0, 5))):
        cloud(canvas, rng, horizon)
    if rng.random() < 0.5:
        mountains(canvas, rng, horizon)


def sun(canvas: Sheet, rng: Generator, horizon: float) -> None:
    """A disc, alone, with a core, or with rays."""
    word, colour = _paint(rng, "yellow", "yellow", "orange", "red", "white")
    x, y, radius = rng.uniform(10, WORLD - 10), rng.uniform(12, horizon), rng.uniform(8, 26)
    kind = int(rng.integers(3))
    if kind == 2:
        for ray in range(12):
            turn = ray * math.pi / 6
            tip = (x + 1.7 * radius * math.cos(turn), y + 1.7 * radius * math.sin(turn))
            side = (0.3 * radius * -math.sin(turn), 0.3 * radius * math.cos(turn))
            points = [(x + side[0], y + side[1]), tip, (x - side[0], y - side[1])]
            canvas.polygon("sun", shade(colour, 0.95), points)
    canvas.ellipse("sun", colour, x, y, radius, radius)
    if kind == 1:
        canvas.ellipse("sun", shade(colour, 1.15), x, y, radius * 0.65, radius * 0.65)
    canvas.name_colour("sun", word)


def cloud(canvas: Sheet, rng: Generator, horizon: float) -> None:
    """Puffs on a flat foot, a streak of thin ellipses, or one plain oval."""
    word, colour = _paint(rng, "white", "white", "gray", "pink")
    x, y, width = rng.uniform(0, WORLD), rng.uniform(5, horizon * 0.8), rng.uniform(14, 42)
    kind = int(rng.integers(3))
    if kind == 0:
        for place in (-0.6, -0.1, 0.45):
            radius = width * rng.uniform(0.35, 0.55)
            canvas.ellipse("cloud", colour, x + place * width, y, radius, radius * 0.8)
        canvas.box("cloud", colour, x - width, y, x + width, y + width * 0.3)
    elif kind == 1:
        for _ in range(3):
            dx, dy = rng.uniform(-0.7, 0.7) * width, rng.uniform(-0.3, 0.3) * width
            canvas.ellipse("cloud", colour, x + dx, y + dy, width, width * rng.uniform(0.08, 0.2))
    else:
        canvas.ellipse("cloud", colour, x, y, width, width * rng.uniform(0.35, 0.7))
    canvas.name_colour("cloud", word)


def mountains(canvas: Sheet, rng: Generator, horizon: float) -> None:
    """Round hills, peaks with snow, or one jagged range."""
    word, base = _paint(rng, "gray", "purple", "brown", "blue", "green")
    kind, foot = int(rng.integers(3)), horizon + 1
    if kind == 2:
        steps = sorted(rng.uniform(0, WORLD, 9).tolist())
        tops = [(x, horizon - rng.uniform(8, 80)) for x in steps]
        canvas.polygon("mountain", base, [(-5, foot), *tops, (WORLD + 5, foot)])
    for _ in range(0 if kind == 2 else int(rng.integers(1, 5))):
        x, height = rng.uniform(-20, WORLD + 20), rng.uniform(25, 95)
        half = height * rng.uniform(0.6, 1.6)
        colour = jitter(rng, base, 12)
        if kind == 0:
            turns = [step * math.pi / 20 for step in range(21)]
            arc = [(x - half * math.cos(t), foot - height * math.sin(t)) for t in turns]
            canvas.polygon("mountain", colour, arc)
        else:
            top = horizon - height
            canvas.polygon("mountain", colour, [(x - half, foot), (x, top), (x + half, foot)])
            snow = [
                (x - half * 0.3, top + height * 0.3),
                (x, top),
                (x + half * 0.3, top + height * 0.3),
            ]
            canvas.polygon("mountain", (240, 242, 248), snow)
    canvas.name_colour("mountain", word)


def road(canvas: Sheet, rng: Generator, land: float) -> float | None:
    """A winding strip across, or one that narrows to the horizon with a line along it."""
    word, colour = _paint(rng, "gray", "black", "brown", "yellow", "white")
    canvas.name_colour("road", word)
    if rng.random() < 0.5:
        y, half = rng.uniform(min(land + 25, 215), WORLD - 25), rng.uniform(8, 24)
        middle = _wavy(rng, y, rng.uniform(0, 10))
        edge = [(x, y + half) for x, y in reversed(middle)]
        canvas.polygon("road", colour, [*((x, y - half) for x, y in middle), *edge])
        return y
    far, near, half = rng.uniform(30, 226), rng.uniform(0, 256), rng.uniform(20, 60)
    foot = [(near + half, WORLD), (near - half, WORLD)]
    canvas.polygon("road", colour, [(far - 5, land), (far + 5, land), *foot])
    if rng.random() < 0.5:
        line = [(far, land), (near + half * 0.07, WORLD), (near - half * 0.07, WORLD)]
        canvas.polygon("road", shade(colour, 1.5 if sum(colour) < 450 else 0.6), line)
    return None


# Trees.


def _trunk(canvas: Sheet, rng: Generator, x: float, y: float, size: float, top: float) -> None:
    half = size * rng.uniform(0.03, 0.1)
    canvas.box("tree", jitter(rng, (105, 75, 50), 25), x - half, y - size * top, x + half, y)


def _leaf(canvas: Sheet, rng: Generator) -> RGB:
    word, colour = _paint(rng, "green", "green", "green", "orange", "yellow", "red", "pink")
    canvas.name_colour("tree", word)
    return shade(colour, rng.uniform(0.6, 1.1))


def lollipop(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """One round or tall crown on a trunk."""
    _trunk(canvas, rng, x, y, size, 0.6)
    wide, tall = size * rng.uniform(0.15, 0.36), size * rng.uniform(0.25, 0.42)
    canvas.ellipse("tree", _leaf(canvas, rng), x, y - size * 0.65, wide, tall)


def bush(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Overlapping ovals that stand on the ground."""
    leaf = _leaf(canvas, rng)
    for place in (-0.28, 0.28, 0.0):
        height = size * rng.uniform(0.22, 0.4)
        canvas.ellipse(
            "tree",
            shade(leaf, rng.uniform(0.9, 1.1)),
            x + place * size,
            y - height,
            size * 0.25,
            height,
        )


def palm(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A thin trunk with leaves that hang from its top."""
    _trunk(canvas, rng, x, y, size, 0.75)
    leaf, top = _leaf(canvas, rng), y - size * 0.75
    for turn in (-0.3, 0.4, 1.1, 2.0, 2.7, 3.4):
        tip = (x + 0.42 * size * math.cos(turn), top - 0.3 * size * math.sin(turn) + size * 0.05)
        middle = (x + 0.24 * size * math.cos(turn), top - 0.3 * size * math.sin(turn) - size * 0.06)
        canvas.polygon("tree", leaf, [(x, top - size * 0.03), middle, tip, (x, top + size * 0.05)])


def fir(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """One tall triangle."""
    _trunk(canvas, rng, x, y, size, 0.3)
    half = size * rng.uniform(0.18, 0.35)
    points = [(x - half, y - size * 0.18), (x, y - size), (x + half, y - size * 0.18)]
    canvas.polygon("tree", _leaf(canvas, rng), points)


# Houses.


def _walls(canvas: Sheet, rng: Generator) -> tuple[RGB, RGB]:
    wall_word, wall = _paint(rng, "white", "yellow", "pink", "gray", "blue", "brown", "orange")
    roof_word, roof = _paint(rng, "red", "blue", "brown", "black", "green", "purple")
    canvas.name_colour("house", pick(rng, (wall_word, f"{roof_word} roof")))
    return wall, roof


def _panes(
    canvas: Sheet, rng: Generator, x: float, top: float, half: float, rows: int, step: float
) -> None:
    """Rows of three windows, some lit."""
    glass: tuple[RGB, ...] = ((150, 190, 215), (90, 110, 140), (250, 220, 130), (60, 60, 70))
    colour = jitter(rng, glass[int(rng.integers(len(glass)))], 10)
    for row in range(rows):
        for place in (-0.6, 0.0, 0.6):
            left, low = x + place * half - half * 0.16, top + row * step
            canvas.box("house", colour, left, low, left + half * 0.32, low + step * 0.55)


def cottage(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A gable, a door, perhaps a chimney."""
    wall, roof = _walls(canvas, rng)
    half, height = size * rng.uniform(0.35, 0.6), size * rng.uniform(0.35, 0.6)
    ridge = y - height - size * rng.uniform(0.25, 0.6)
    if rng.random() < 0.5:
        canvas.box("house", shade(wall, 0.7), x + half * 0.4, ridge, x + half * 0.65, y - height)
    canvas.box("house", wall, x - half, y - height, x + half, y)
    eaves = half * rng.uniform(1.0, 1.3)
    canvas.polygon("house", roof, [(x - eaves, y - height), (x, ridge), (x + eaves, y - height)])
    _panes(canvas, rng, x, y - height * 0.8, half, 1, height * 0.5)
    canvas.box("house", shade(roof, 0.8), x - half * 0.6, y - height * 0.4, x - half * 0.25, y)


def block(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A flat roof over storeys of windows."""
    wall, roof = _walls(canvas, rng)
    half, rows = size * rng.uniform(0.28, 0.6), int(rng.integers(2, 5))
    top, step = y - size * rng.uniform(0.7, 1.1), size * 0.18
    canvas.box("house", wall, x - half, top, x + half, y)
    canvas.box("house", roof, x - half * 1.05, top - size * 0.06, x + half * 1.05, top)
    _panes(canvas, rng, x, top + step * 0.4, half, rows, step)


def hut(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Round: a dome or a cone on a low wall."""
    wall, roof = _walls(canvas, rng)
    half, height = size * rng.uniform(0.35, 0.5), size * rng.uniform(0.3, 0.45)
    if rng.random() < 0.5:
        canvas.ellipse("house", roof, x, y - height, half, size * 0.4)
    canvas.box("house", wall, x - half, y - height, x + half, y)
    if rng.random() < 0.5:
        apex = (x, y - height - size * 0.45)
        canvas.polygon(
            "house", roof, [(x - half * 1.25, y - height), apex, (x + half * 1.25, y - height)]
        )
    canvas.ellipse("house", shade(wall, 0.45), x, y - height * 0.3, half * 0.25, height * 0.3)


# Cars.


def _wheels(canvas: Sheet, x: float, y: float, half: float, radius: float, *places: float) -> None:
    for place in places:
        canvas.ellipse("car", (30, 30, 34), x + place * half, y - radius, radius, radius)
        canvas.ellipse(
            "car", (150, 150, 155), x + place * half, y - radius, radius * 0.4, radius * 0.4
        )


def _body(canvas: Sheet, rng: Generator) -> RGB:
    word, colour = _paint(rng, *(word for word in PAINTS if word not in ("brown", "gray")))
    canvas.name_colour("car", word)
    return colour


def bus(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A long box with a row of windows."""
    paint = _body(canvas, rng)
    half, height, radius = size * 0.55, size * rng.uniform(0.35, 0.5), size * 0.085
    canvas.box("car", paint, x - half, y - height, x + half, y - radius)
    for pane in range(4):
        left = x - half * 0.9 + pane * half * 0.46
        canvas.box(
            "car", (170, 200, 220), left, y - height * 0.9, left + half * 0.34, y - height * 0.52
        )
    _wheels(canvas, x, y, half, radius, -0.6, 0.6)


def lorry(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A box of cargo behind a cab."""
    paint = _body(canvas, rng)
    half, radius, way = size * 0.6, size * 0.09, 1 if rng.random() < 0.5 else -1
    cargo = jitter(rng, PAINTS[pick(rng, ("white", "gray", "brown"))])

    def part(colour: RGB, back: float, front: float, high: float, low: float) -> None:
        left, right = sorted((x + way * back * half, x + way * front * half))
        canvas.box("car", colour, left, y - high * size, right, y - low * size)

    part(cargo, -1.0, 0.4, 0.5, 0.09)
    part(paint, 0.42, 1.0, 0.38, 0.09)
    part((170, 200, 220), 0.65, 0.95, 0.34, 0.22)
    _wheels(canvas, x, y, half, radius, -0.65, 0.0, 0.65)


def beetle(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A round roof on a low body."""
    paint = _body(canvas, rng)
    half, radius = size * 0.48, size * 0.1
    canvas.ellipse("car", paint, x, y - size * 0.24, half * 0.65, size * 0.22)
    canvas.ellipse("car", (175, 205, 220), x, y - size * 0.27, half * 0.45, size * 0.13)
    canvas.ellipse("car", paint, x, y - size * 0.15, half, size * 0.12)
    _wheels(canvas, x, y, half, radius, -0.55, 0.55)


# Persons.


def _head(canvas: Sheet, rng: Generator, x: float, y: float, radius: float) -> None:
    """A face, mostly with hair or a hat."""
    skin = plain.skin_tone(rng)
    if rng.random() < 0.7:
        hair = jitter(rng, PAINTS[pick(rng, ("black", "brown", "yellow", "red", "gray"))])
        canvas.ellipse("person", hair, x, y - radius * 0.3, radius * 1.15, radius * 1.05)
    canvas.ellipse("person", skin, x, y, radius * 0.85, radius)


def _cloth(canvas: Sheet, rng: Generator) -> RGB:
    word, colour = _paint(rng, *PAINTS)
    canvas.name_colour("person", word)
    return colour


def gown(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A triangle from the shoulders to the ground."""
    cloth, half = _cloth(canvas, rng), size * rng.uniform(0.18, 0.3)
    points = [
        (x - size * 0.08, y - size * 0.8),
        (x + size * 0.08, y - size * 0.8),
        (x + half, y),
        (x - half, y),
    ]
    canvas.polygon("person", cloth, points)
    _head(canvas, rng, x, y - size * 0.87, size * 0.12)


def stout(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """An oval body on two legs, arms held out."""
    cloth, legs = _cloth(canvas, rng), jitter(rng, PAINTS[pick(rng, ("black", "blue", "brown"))])
    for side in (-1, 1):
        middle = x + side * size * 0.09
        canvas.box("person", legs, middle - size * 0.06, y - size * 0.4, middle + size * 0.06, y)
        arm = [
            (x, y - size * 0.7),
            (x + side * size * 0.3, y - size * rng.uniform(0.4, 0.9)),
            (x, y - size * 0.58),
        ]
        canvas.polygon("person", cloth, arm)
    canvas.ellipse("person", cloth, x, y - size * 0.55, size * 0.18, size * 0.24)
    _head(canvas, rng, x, y - size * 0.87, size * 0.12)


def slim(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A narrow block, half of it trousers."""
    cloth, half = _cloth(canvas, rng), size * rng.uniform(0.1, 0.16)
    canvas.box(
        "person", jitter(rng, (60, 60, 80), 30), x - half * 0.9, y - size * 0.42, x + half * 0.9, y
    )
    canvas.box("person", cloth, x - half, y - size * 0.78, x + half, y - size * 0.4)
    _head(canvas, rng, x, y - size * 0.86, size * 0.13)


# Flowers.


def _petal(canvas: Sheet, rng: Generator) -> RGB:
    word, colour = _paint(rng, "red", "pink", "yellow", "purple", "white", "blue", "orange")
    canvas.name_colour("flower", word)
    return colour


def daisies(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A few large flowers of five petals around a heart."""
    petal, heart = _petal(canvas, rng), jitter(rng, (240, 210, 90))
    for _ in range(int(rng.integers(3, 8))):
        fx, fy = x + rng.uniform(-1, 1) * size, y - rng.uniform(0.1, 0.7) * size
        radius, start = size * rng.uniform(0.14, 0.24), rng.uniform(0, 6.28)
        for leaf in range(5):
            turn = start + leaf * 1.2566
            across, down = math.cos(turn) * radius, math.sin(turn) * radius
            canvas.ellipse("flower", petal, fx + across, fy + down, radius * 0.7, radius * 0.7)
        canvas.ellipse("flower", heart, fx, fy, radius * 0.5, radius * 0.5)


def tulips(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Cups on stems, in a row."""
    petal, stem = _petal(canvas, rng), jitter(rng, (60, 130, 60), 20)
    for _ in range(int(rng.integers(4, 10))):
        fx, foot = x + rng.uniform(-1, 1) * size, y + rng.uniform(-0.2, 0.1) * size
        top, half = foot - size * rng.uniform(0.4, 0.8), size * rng.uniform(0.1, 0.17)
        canvas.box("flower", stem, fx - size * 0.025, top, fx + size * 0.025, foot)
        cup = [
            (-half, -half),
            (-half * 0.4, -half * 0.2),
            (0.0, -half * 1.1),
            (half * 0.4, -half * 0.2),
            (half, -half),
            (half * 0.7, half),
            (-half * 0.7, half),
        ]
        canvas.polygon("flower", petal, [(fx + dx, top + dy) for dx, dy in cup])


def meadow(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """Many small dots close together."""
    petal = _petal(canvas, rng)
    for _ in range(int(rng.integers(20, 36))):
        fx, fy = x + rng.normal(0, 0.45) * size, y - rng.uniform(0, 0.5) * size
        radius = size * rng.uniform(0.06, 0.13)
        canvas.ellipse("flower", jitter(rng, petal, 25), fx, fy, radius, radius)


# Boats.


def _hull(canvas: Sheet, rng: Generator, x: float, y: float, half: float, height: float) -> RGB:
    word, colour = _paint(rng, *PAINTS)
    canvas.name_colour("boat", word)
    slant = rng.uniform(0.5, 0.95)
    points = [
        (x - half, y - height),
        (x + half, y - height),
        (x + half * slant, y),
        (x - half * slant, y),
    ]
    canvas.polygon("boat", colour, points)
    return colour


def steamer(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A cabin and a funnel on the hull."""
    half, height = size * rng.uniform(0.45, 0.65), size * rng.uniform(0.18, 0.28)
    funnel, top = jitter(rng, PAINTS[pick(rng, ("red", "black", "yellow"))]), y - height
    canvas.box("boat", funnel, x + half * 0.1, top - size * 0.5, x + half * 0.3, top)
    canvas.box("boat", (232, 232, 226), x - half * 0.6, top - size * 0.24, x + half * 0.5, top)
    canvas.box(
        "boat", (70, 90, 120), x - half * 0.5, top - size * 0.17, x + half * 0.4, top - size * 0.09
    )
    _hull(canvas, rng, x, y, half, height)


def dinghy(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """A hull alone, with a line along its side."""
    half, height = size * rng.uniform(0.4, 0.6), size * rng.uniform(0.18, 0.3)
    colour = _hull(canvas, rng, x, y, half, height)
    canvas.box(
        "boat",
        shade(colour, 0.6),
        x - half * 0.9,
        y - height * 0.85,
        x + half * 0.9,
        y - height * 0.65,
    )


def sloop(canvas: Sheet, rng: Generator, x: float, y: float, size: float) -> None:
    """One coloured sail on a mast."""
    half, way = size * rng.uniform(0.35, 0.5), 1 if rng.random() < 0.5 else -1
    sail = jitter(rng, PAINTS[pick(rng, ("white", "white", "red", "yellow", "orange"))])
    canvas.box("boat", (80, 60, 45), x - size * 0.02, y - size, x + size * 0.02, y - size * 0.15)
    points = [(x, y - size * 0.97), (x, y - size * 0.25), (x + way * half, y - size * 0.3)]
    canvas.polygon("boat", sail, points)
    _hull(canvas, rng, x, y, half, size * 0.18)


THINGS: dict[str, tuple[Thing, ...]] = {
    "tree": (plain.tree, lollipop, bush, palm, fir),
    "house": (plain.house, cottage, block, hut),
    "car": (plain.car, bus, lorry, beetle),
    "person": (plain.person, gown, stout, slim),
    "flower": (plain.flowers, daisies, tulips, meadow),
    "boat": (plain.boat, steamer, dinghy, sloop),
}
"""Every shape of a thing that training may see."""
