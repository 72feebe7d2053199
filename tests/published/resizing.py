"""Interpolation of maps as `torch.nn.functional.interpolate` defines it, without antialiasing.

Output pixel i of an axis looks at input place (i + 0.5)·(input / output) − 0.5, which is what
`align_corners=False` means. Each axis is one matrix of weights, (output, input).
"""

from __future__ import annotations

from math import floor, isqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Size = tuple[int, int]

CUBIC = -0.75  # torch's coefficient of cubic convolution


def bilinear(maps: Floats, size: Size, align_corners: bool = False) -> Floats:
    """`maps` (K, h, w) resized bilinearly to `size`: (K, H, W)."""
    _, h, w = maps.shape
    rows = linear_weights(h, size[0], align_corners)
    columns = linear_weights(w, size[1], align_corners)
    return separable(maps, rows, columns)


def bicubic(maps: Floats, size: Size) -> Floats:
    """`maps` (K, h, w) resized by cubic convolution, a = −0.75, to `size`: (K, H, W)."""
    _, h, w = maps.shape
    return separable(maps, cubic_weights(h, size[0]), cubic_weights(w, size[1]))


def nearest(maps: Floats, size: Size) -> Floats:
    """`maps` (K, h, w) resized to `size`: output pixel i is input pixel floor(i·h/H)."""
    count, h, w = maps.shape
    resized = np.zeros((count, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            resized[:, y, x] = maps[:, y * h // size[0], x * w // size[1]]
    return resized


def resized_attention(attention: Floats, side: int, keys: str) -> Floats:
    """Self-attention (r·r queries, r·r keys) at another grid: (side², side²), held in full.

    `keys` is "bilinear" or "bicubic"; the queries are repeated, that is resized by `nearest`. A row
    resized so no longer sums to 1, and its sum grows with (side/r)²; it stays as it is, since the
    published codes (FA-Seg, GoCA) do not divide again. Bicubic keys are slightly negative in parts.
    """
    r = square_side(attention.shape[0])
    resize = {"bilinear": bilinear, "bicubic": bicubic}[keys]
    wide = resize(attention.reshape(r * r, r, r), (side, side)).reshape(r * r, side * side)
    by_key = wide.T.reshape(side * side, r, r)
    return nearest(by_key, (side, side)).reshape(side * side, side * side).T


def square_side(tokens: int) -> int:
    """The side of a square grid of `tokens`."""
    side = isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are no square grid")
    return side


def separable(maps: Floats, rows: Floats, columns: Floats) -> Floats:
    """`maps` (K, h, w) with `rows` (H, h) and `columns` (W, w) applied: (K, H, W)."""
    return np.stack([rows @ one @ columns.T for one in maps]) if len(maps) else empty(rows, columns)


def empty(rows: Floats, columns: Floats) -> Floats:
    """No map at all, at the output's size: (0, H, W)."""
    return np.zeros((0, len(rows), len(columns)))


def linear_weights(inputs: int, outputs: int, align_corners: bool = False) -> Floats:
    """Weights (outputs, inputs) of linear interpolation; places before the first pixel are it."""
    weights = np.zeros((outputs, inputs))
    for i in range(outputs):
        if align_corners:
            place = i * (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
        else:
            place = max(0.0, (i + 0.5) * inputs / outputs - 0.5)
        first = min(floor(place), inputs - 1)
        second = min(first + 1, inputs - 1)
        share = place - first
        weights[i, first] += 1 - share
        weights[i, second] += share
    return weights


def cubic_weights(inputs: int, outputs: int) -> Floats:
    """Weights (outputs, inputs) of cubic convolution; taps outside are taken from the edge."""
    weights = np.zeros((outputs, inputs))
    for i in range(outputs):
        place = (i + 0.5) * inputs / outputs - 0.5
        base = floor(place)
        for tap in range(base - 1, base + 3):
            weights[i, min(max(tap, 0), inputs - 1)] += cubic(abs(place - tap))
    return weights


def cubic(x: float) -> float:
    """Keys' convolution kernel at distance `x`."""
    a = CUBIC
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0
