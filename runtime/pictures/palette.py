"""Colours of classes: natural for words that have one, calm and far apart for all others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NATURAL: Final = {
    "#86bde8": "sky",
    "#dfe6ec": "cloud snow ice fog",
    "#f7cb4d": "sun light lamp banana lemon",
    "#9182ab": "mountain hill peak",
    "#8fc062": "grass lawn field meadow vegetation",
    "#3f8a55": "tree forest bush plant leaf wood",
    "#e5cd94": "sand beach desert",
    "#3d7fb8": "water sea ocean lake river pool",
    "#70747d": "road street asphalt pavement",
    "#b9b4c7": "sidewalk path floor",
    "#b0764f": "soil earth dirt mud terrain ground",
    "#9d9a92": "rock stone cliff wall concrete",
    "#d0806a": "house building brick",
    "#a4514e": "roof",
    "#5b6fae": "car truck bus vehicle",
    "#a978c2": "boat ship",
    "#ef8d7c": "person man woman child people pedestrian face",
    "#e884b4": "flower rose",
    "#c9955c": "dog horse cow bear",
    "#e3a86f": "cat fox tiger",
    "#6bb7ae": "glass window",
    "#d9534f": "apple tomato fire strawberry",
    "#f09a3e": "orange carrot pumpkin",
}
"""RGB → the words it is natural for; a word earlier in a list of classes has it first."""

_LIGHTNESS: Final = (0.72, 0.62, 0.79, 0.55, 0.85)
_CHROMA: Final = (0.10, 0.07, 0.115, 0.04)
_HUES: Final = 72
"""The calm colours to choose from, in OKLCH: no black, no white, nothing glaring."""

_FAR: Final = 0.04
"""Distance in OKLab under which two colours of one picture are told apart with trouble."""

VOID: Final = (224, 224, 192)
"""Of pixels that belong to no class: the Pascal VOC colour map's."""


def palette(names: Sequence[str]) -> NDArray[np.uint8]:
    """(classes, 3) uint8 RGB: a colour for every name, the same for the same list.

    A name of several words has the colour of its last known one: "blue sky" is sky, "tree-merged"
    is tree. Up to some thousand classes no two have the same.
    """
    return _chosen(tuple(names)).copy()


@lru_cache(maxsize=8)
def _chosen(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """`palette`, chosen once for all pictures of a list."""
    chosen = np.zeros((len(names), 3), np.uint8)
    others, taken = [], np.zeros((0, 3))
    for place, name in enumerate(names):
        colour = _natural(name)
        if colour is not None:
            lab = _oklab(colour)
            if np.linalg.norm(taken - lab, axis=1).min(initial=np.inf) > _FAR:
                chosen[place], taken = colour, np.vstack([taken, lab])
                continue
        others.append(place)
    if others:
        chosen[others] = _far_from(taken, len(others))
    return chosen


def hexadecimal(colour: NDArray[np.uint8]) -> str:
    """#rrggbb of one colour."""
    return "#" + bytes(colour.tolist()).hex()


@cache
def _words() -> dict[str, NDArray[np.uint8]]:
    return {
        word: np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
        for code, words in _NATURAL.items()
        for word in words.split()
    }


def _natural(name: str) -> NDArray[np.uint8] | None:
    """The colour of the last word of a name that has one."""
    known = _words()
    for word in reversed(re.findall(r"[a-z]+", name.lower())):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in known:
                return known[form]
    return None


def _far_from(taken: NDArray[np.float64], count: int) -> NDArray[np.uint8]:
    """(count, 3) uint8: one after another the calm colour farthest from all before."""
    colours = _calm()
    labs = _oklab(colours)
    nearest = np.full(len(colours), np.inf)
    for lab in taken:
        nearest = np.minimum(nearest, np.linalg.norm(labs - lab, axis=1))
    chosen = []
    for _ in range(count):
        place = int(nearest.argmax())
        if nearest[place] == 0:  # all are given out: begin again
            nearest[:] = np.inf
        chosen.append(place)
        nearest = np.minimum(nearest, np.linalg.norm(labs - labs[place], axis=1))
    return colours[chosen]


@cache
def _calm() -> NDArray[np.uint8]:
    """(colours, 3) uint8: those of `_LIGHTNESS`, `_CHROMA` and `_HUES` that a screen can show."""
    hue = np.radians(250 + np.arange(_HUES) * 360 / _HUES)  # the first is a calm blue
    labs = np.concatenate(
        [
            np.stack([np.full(_HUES, light), chroma * np.cos(hue), chroma * np.sin(hue)], 1)
            for chroma in _CHROMA
            for light in _LIGHTNESS
        ]
    )
    linear = (labs @ _FROM_OKLAB.T) ** 3 @ _FROM_CONES.T
    shown = ((linear >= 0) & (linear <= 1)).all(axis=1)
    light = linear[shown]
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    rounded = (srgb * 255).round().astype(np.uint8)
    _, first = np.unique(rounded, axis=0, return_index=True)
    colours: NDArray[np.uint8] = rounded[np.sort(first)]
    return colours


def _oklab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(…, 3) OKLab of sRGB."""
    srgb = np.asarray(colours, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = np.cbrt(linear @ _TO_CONES.T) @ _TO_OKLAB.T
    return lab


# Björn Ottosson, "A perceptual color space for image processing" (2020).
_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_CONES: Final = np.linalg.inv(_TO_CONES)
_FROM_OKLAB: Final = np.linalg.inv(_TO_OKLAB)
