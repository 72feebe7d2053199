"""What a caption of a scene says: the visible classes in random order, some with a colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....runtime.look.prompts import read_classes
from .renderer import CLASSES, PAINTS, Scene

OPENINGS = ("a picture of", "a photo of", "")
JOINTS = (" and ", ", ", " ")
SYNONYMS: dict[str, tuple[str, ...]] = {
    names[0]: names[1:] for names in read_classes(Path(__file__).with_name("classes.txt"))
}
"""Other names a caption may give a class."""

WORDS = tuple(
    dict.fromkeys(
        [*CLASSES, *PAINTS, "roof", "a", "picture", "photo", "of", "and", "the", "with"]
        + [word for words in SYNONYMS.values() for word in words]
    )
)
"""Every word a caption can hold: the closed vocabulary of the embedded model."""


LISTS = 0.4
"""Share of captions that are bare lists of names, some of which are not in the picture."""


def synonym(name: str, rng: np.random.Generator) -> str:
    """Another word for a class."""
    return SYNONYMS[name][int(rng.integers(len(SYNONYMS[name])))]


def _called(name: str, rng: np.random.Generator, synonyms: float) -> str:
    return name if rng.random() >= synonyms else synonym(name, rng)


def caption(
    scene: Scene,
    rng: np.random.Generator,
    synonyms: float = 0.0,
    lists: float = LISTS,
    full: float = 0.0,
) -> str:
    """A caption for a scene: a description, or a list in which some names are wrong.

    In a description colours stand before objects six times in ten, and one name is sometimes
    left out. A list holds every visible class and any number of absent ones, as a prompt of all
    class names does: a word is only of use where the picture agrees with it. `synonyms` is the
    share of the names, in [0, 1], that another word for the class replaces; `lists` that of the
    captions which are lists; `full` that of the lists which name every class.
    """
    if rng.random() < lists:
        absent = [name for name in CLASSES if name not in scene.visible]
        rng.shuffle(absent)
        every = full > 0 and rng.random() < full
        wrong = len(absent) if every else int(rng.integers(len(absent) + 1))
        phrases = [*scene.visible, *absent[:wrong]]
        rng.shuffle(phrases)
        phrases = [_called(name, rng, synonyms) for name in phrases]
        return JOINTS[int(rng.integers(3))].join(phrases)
    names = list(scene.visible)
    rng.shuffle(names)
    if len(names) > 2 and rng.random() < 0.2:
        names.pop()
    phrases = []
    for name in names:
        colours = scene.colours.get(name, ())
        phrase = _called(name, rng, synonyms)
        if colours and rng.random() < 0.6:
            phrase = f"{colours[int(rng.integers(len(colours)))]} {phrase}"
        phrases.append(phrase)
    opening = OPENINGS[2] if rng.random() < 0.6 else OPENINGS[int(rng.integers(2))]
    return f"{opening} {JOINTS[int(rng.integers(3))].join(phrases)}".strip()
