"""What varied styles make of a drawn scene: textures, light, lines, warps, colour, blur, noise.

Everything is drawn from the scene's generator. The mask follows the one change that moves
pixels, the warp; all others touch the picture alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .canvas import CLASSES, Sheet

Field = NDArray[np.float32]
Generator = np.random.Generator


def smooth(rng: Generator, size: int, cells: int) -> Field:
    """(size, size) smooth noise of unit spread, `cells` bumps across."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    resized = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def pattern(rng: Generator, rows: Field, columns: Field) -> Field:
    """(size, size) grain, blotches, stripes, checks, dots or ripples of about unit spread."""
    size, kind = len(rows), int(rng.integers(6))
    if kind == 0:
        return rng.standard_normal((size, size), dtype=np.float32)
    if kind == 1:
        return smooth(rng, size, int(rng.integers(8, 64)))
    turn, pace = rng.uniform(0, math.pi), rng.uniform(0.25, 1.3)
    along = (rows * math.cos(turn) + columns * math.sin(turn)) * np.float32(pace)
    if kind == 2:
        stripes: Field = np.sin(along)
        return stripes
    across = (columns * math.cos(turn) - rows * math.sin(turn)) * np.float32(pace)
    if kind == 3:
        checks: Field = np.sign(np.sin(along) * np.sin(across))
        return checks
    if kind == 4:
        return np.where(np.sin(along) * np.sin(across) > 0.5, np.float32(1.5), np.float32(-0.3))
    ripples: Field = np.sin(along + 2 * np.sin(across * np.float32(rng.uniform(0.1, 0.5))))
    return ripples


def textures(rng: Generator, mask: NDArray[np.uint8], rows: Field, columns: Field) -> Field:
    """(size, size) what to add to a picture: some classes stay flat, others share a pattern."""
    total = np.zeros(mask.shape, np.float32)
    owner = rng.integers(0, 5, len(CLASSES))  # 3 and 4: flat
    strength = rng.uniform(2, 16, len(CLASSES)).astype(np.float32)
    for number in range(3):
        table = np.where(owner == number, strength, np.float32(0)).astype(np.float32)
        total += table[mask] * pattern(rng, rows, columns)
    return total


def warp(
    rng: Generator, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bend picture and mask alike, by a few pixels of 256."""
    size = len(mask)
    reach = rng.uniform(1, 5) * size / 256
    places = np.arange(size, dtype=np.float32)
    moved = [
        np.clip(grid + reach * smooth(rng, size, int(rng.integers(4, 14))), 0, size - 1)
        for grid in (places[:, None], places[None, :])
    ]
    y, x = (np.rint(each).astype(np.intp) for each in moved)
    return image[y, x], mask[y, x]


def light(rng: Generator, size: int) -> Field:
    """(size, size) factors: brighter to one side, with patches of shade."""
    turn, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    place = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = place[:, None] * math.cos(turn) + place[None, :] * math.sin(turn)
    patches = smooth(rng, size, int(rng.integers(3, 8))) * np.float32(rng.uniform(0, 0.12))
    return 1 + np.float32(strength) * slope.astype(np.float32) + patches


def relief(rng: Generator, image: NDArray[np.uint8]) -> Field:
    """(size, size) what to add so that edges look raised, lit from one corner."""
    soft = Image.fromarray(image).convert("L").filter(ImageFilter.GaussianBlur(rng.uniform(1, 3)))
    grey = np.asarray(soft).astype(np.float32)
    way = int(rng.choice([-2, 2]))
    return (grey - np.roll(grey, (2, way), (0, 1))) * np.float32(rng.uniform(0.5, 1.5))


def edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(size, size) where a class ends to the right or below."""
    found = np.zeros(mask.shape, bool)
    found[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    found[1:] |= mask[1:] != mask[:-1]
    return found


def graded(rng: Generator, image: Field) -> tuple[Field, bool]:
    """Other brightness, contrast and cast; whether colours are still told apart."""
    grey = image.mean(axis=2, keepdims=True)
    saturation = rng.uniform(0, 0.4) if rng.random() < 0.07 else rng.uniform(0.6, 1.5)
    image = grey + (image - grey) * np.float32(saturation)
    image = (image - 128) * np.float32(rng.uniform(0.65, 1.3)) + 128
    cast = rng.uniform(0.72, 1.22) * rng.uniform(0.92, 1.08, 3)
    return image * cast.astype(np.float32), saturation > 0.4


def _clipped(image: Field) -> NDArray[np.uint8]:
    return np.clip(image, 0, 255).astype(np.uint8)


def finish(canvas: Sheet, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each change or none of it, by chance."""
    size, view = canvas.size, canvas.view
    drawn, mask = np.asarray(canvas.image), np.asarray(canvas.mask).copy()
    if rng.random() < 0.4:
        drawn, mask = warp(rng, drawn, mask)
    image = drawn.astype(np.float32)
    places = np.arange(size, dtype=np.float32) * np.float32(view.side / size)
    if rng.random() < 0.75:
        rows, columns = np.float32(view.y) + places[:, None], np.float32(view.x) + places[None, :]
        rows = np.broadcast_to(rows, (size, size))
        image += textures(rng, mask, rows, columns)[..., None]
    if rng.random() < 0.25:
        image += relief(rng, drawn)[..., None]
    if rng.random() < 0.15:
        image[edges(mask)] *= rng.uniform(0.1, 0.7)
    if rng.random() < 0.6:
        image *= light(rng, size)[..., None]
    image, coloured = graded(rng, image)
    if not coloured:
        canvas.colours.clear()
    if rng.random() < 0.1:
        step = 256 / int(rng.integers(4, 9))
        image = np.floor(image / step) * step + step / 2
    picture = Image.fromarray(_clipped(image))
    if rng.random() < 0.1:
        few = size // int(rng.integers(2, 4))
        picture = picture.resize((few, few), Image.Resampling.BOX)
        picture = picture.resize((size, size), Image.Resampling.NEAREST)
    elif rng.random() < 0.75:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    image = np.asarray(picture).astype(np.float32)
    channels = 3 if rng.random() < 0.3 else 1
    noise = rng.standard_normal((size, size, channels), dtype=np.float32)
    return _clipped(image + noise * np.float32(rng.uniform(0, 9))), mask
