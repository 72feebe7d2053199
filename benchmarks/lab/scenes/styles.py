"""Styles drawn by chance: which shapes, paints, lines and finish a varied scene has.

A model that has seen one style takes what is particular to it for what the words mean.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from . import finishes, plain, shapes
from .canvas import CLASSES, RGB, Outline, Style, shade

FAR = 0.5
"""Radians of hue beyond which a colour word is no longer true."""


def hue_matrix(angle: float, saturation: float, value: float) -> NDArray[np.float64]:
    """(3, 3) on RGB columns: turn the hue by an angle in radians, scale saturation and value."""
    cosine, sine = math.cos(angle), math.sin(angle) / math.sqrt(3)
    turn = cosine * np.eye(3) + (1 - cosine) / 3
    turn += sine * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    matrix: NDArray[np.float64] = (saturation * turn + (1 - saturation) / 3) * value
    return matrix


def _ink(matrices: dict[str, list[list[float]]], name: str, colour: RGB) -> RGB:
    red, green, blue = (
        sum(a * b for a, b in zip(row, colour, strict=True)) for row in matrices[name]
    )
    return shade((int(red), int(green), int(blue)), 1.0)


def _outline(rng: np.random.Generator) -> Outline | None:
    if rng.random() < 0.6:
        return None
    lines: tuple[RGB | None, ...] = (None, None, (20, 20, 25), (60, 40, 30), (245, 245, 240))
    return Outline(float(rng.uniform(0.3, 1.6)), lines[int(rng.integers(len(lines)))])


def varied(seed: int) -> Style:
    """The style that goes with a seed."""
    rng = np.random.default_rng([seed, 21])
    wild = float(rng.choice([0.0, 0.2, 0.6], p=[0.65, 0.25, 0.1]))
    angles = np.where(
        rng.random(len(CLASSES)) < wild,
        rng.uniform(-math.pi, math.pi, len(CLASSES)),
        rng.normal(0, 0.13, len(CLASSES)),
    )
    spreads = rng.uniform(0.7, 1.35, (len(CLASSES), 2))
    matrices = {
        name: hue_matrix(angle, saturation, value).tolist()
        for name, angle, (saturation, value) in zip(CLASSES, angles, spreads, strict=True)
    }
    things = {name: kinds[int(rng.integers(len(kinds)))] for name, kinds in shapes.THINGS.items()}
    return Style(
        sky=shapes.sky if rng.random() < 0.7 else plain.sky,
        road=shapes.road if rng.random() < 0.6 else plain.road,
        things=things,
        finish=finishes.finish if rng.random() < 0.85 else plain.finish,
        ink=partial(_ink, matrices),
        unnamed=frozenset(
            name for name, angle in zip(CLASSES, angles, strict=True) if abs(angle) > FAR
        ),
        outline=_outline(rng),
    )
