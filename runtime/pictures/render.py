"""Pictures of a result: a palette PNG of labels, an overlay with a legend."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..segmentation import Segmentation
from .bands import bands

ALPHA: Final = 0.55
"""Opacity of the colours on the overlay."""


def palette(count: int) -> NDArray[np.uint8]:
    """(count, 3) uint8 RGB: the Pascal VOC colour map without its black, bits spread by index."""
    index = np.arange(1, count + 1)
    colours = np.zeros((count, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def colours(result: Segmentation, background: str | None = None) -> NDArray[np.uint8]:
    """(classes, 3) uint8: the palette, black for the background class."""
    chosen = palette(len(result.classes))
    if background is not None:
        chosen[result.classes.index(background)] = 0
    return chosen


def label_image(result: Segmentation, background: str | None = None) -> Image.Image:
    """Labels as a palette image; as 16-bit grey where more than 256 classes need it."""
    if result.labels.dtype != np.uint8:
        return Image.fromarray(result.labels)
    image = Image.fromarray(result.labels)
    image.putpalette(colours(result, background).tobytes())
    return image


def overlay(
    pixels: NDArray[np.uint8], result: Segmentation, background: str | None = None
) -> Image.Image:
    """The picture under its classes' colours and outlines, with a legend of the names present.

    Args:
        pixels: (H, W, 3) uint8.
        background: the class left uncoloured.
    """
    labels, paint = result.labels, colours(result, background)
    page = _legend(result, background)
    for rows in bands(labels.shape):
        covered = paint[labels[rows]].astype(np.float32)
        mixed = pixels[rows] * np.float32(1 - ALPHA) + covered * np.float32(ALPHA)
        if background is not None:
            kept = labels[rows] == result.classes.index(background)
            mixed[kept] = pixels[rows][kept]
        mixed[_outlines(labels, rows)] = 255
        page.paste(Image.fromarray(mixed.astype(np.uint8)), (0, rows.start))
    return page


def percent(share: float) -> str:
    """The share of a class that is present, in whole per cent."""
    text = f"{share:.0%}"
    return "<1%" if text == "0%" else text


def _outlines(labels: NDArray[np.uint8] | NDArray[np.uint16], rows: slice) -> NDArray[np.bool_]:
    """Where the label changes from the left or from above, for a band of rows."""
    above = min(rows.start, 1)
    near = labels[rows.start - above : rows.stop]
    edge = np.zeros(near.shape, dtype=bool)
    edge[:, 1:] |= near[:, 1:] != near[:, :-1]
    edge[1:] |= near[1:] != near[:-1]
    return edge[above:]


def _legend(result: Segmentation, background: str | None) -> Image.Image:
    """A white page with room for the picture, and right of it a swatch, name and share a class."""
    rows, columns = result.labels.shape
    height = max(rows, 160)
    size = int(np.clip(height / 22, 11, 40))
    font = ImageFont.load_default(size)
    paint, shares = colours(result, background), result.shares
    order = [int(i) for i in np.argsort(-shares, kind="stable")]
    present = [i for i in order if shares[i] > 0 and result.classes[i] != background]
    room = max(1, (height - size) // int(size * 1.6))
    shown = present if len(present) <= room else present[: room - 1]
    lines = [f"{result.classes[i]}  {percent(shares[i])}" for i in shown]
    if len(shown) < len(present):
        lines.append(f"and {len(present) - len(shown)} more")
    width = int(max((font.getlength(line) for line in lines), default=0)) + size * 3
    page = Image.new("RGB", (columns + width, height), "white")
    pen = ImageDraw.Draw(page)
    x = columns + size * 0.6
    for row, line in enumerate(lines):
        y = size * 0.5 + row * size * 1.6
        if row < len(shown):
            red, green, blue = paint[shown[row]].tolist()
            box = [x, y, x + size, y + size]
            pen.rectangle(box, fill=(red, green, blue), outline="black")
        pen.text((x + size * 1.5, y - size * 0.1), line, fill="black", font=font)
    return page
