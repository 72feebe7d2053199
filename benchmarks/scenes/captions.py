"""What a caption of a scene says: the visible classes in random order, some with a colour."""

from __future__ import annotations

import numpy as np

from .renderer import CLASSES, PAINTS, Scene

OPENINGS = ("a picture of", "a photo of", "")
JOINTS = (" and ", ", ", " ")
WORDS = tuple(
    dict.fromkeys([*CLASSES, *PAINTS, "roof", "a", "picture", "photo", "of", "and", "the", "with"])
)
"""Every word a caption can hold: the closed vocabulary of the embedded model."""


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption for a scene; colours stand before objects six times in ten."""
    names = list(scene.visible)
    rng.shuffle(names)
    if len(names) > 2 and rng.random() < 0.2:
        names.pop()
    phrases = []
    for name in names:
        colours = scene.colours.get(name, ())
        if colours and rng.random() < 0.6:
            name = f"{colours[int(rng.integers(len(colours)))]} {name}"
        phrases.append(name)
    opening = OPENINGS[2] if rng.random() < 0.6 else OPENINGS[int(rng.integers(2))]
    return f"{opening} {JOINTS[int(rng.integers(3))].join(phrases)}".strip()
