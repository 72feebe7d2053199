"""Pictures of a result: a palette PNG of labels, an overlay with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...kernels import Size, void
from .bands import bands, totals
from .palette import VOID, palette

Labels = NDArray[np.uint8] | NDArray[np.uint16]
RGB = tuple[int, int, int]

ALPHA: Final = 0.5
"""Opacity of the colours on the overlay."""

_DARK: Final = 0.35
"""What a pixel's brightness is multiplied by on the dark side of an outline."""

_LIGHT: Final = 0.8
"""How white a pixel is on the light side."""

_ROOMS: Final = 128
"""Cells of the longer side of the grid on which room for names is looked for."""

PANEL: Final = (34, 38, 46)
INK: Final = (238, 240, 243)
"""The legend's ground and text, which stand on light pages and on dark ones."""


def colours(names: Sequence[str], background: str | None = None) -> NDArray[np.uint8]:
    """(classes, 3) uint8: the palette, black for the background class."""
    chosen = palette(names)
    if background is not None:
        chosen[list(names).index(background)] = 0
    return chosen


def label_image(labels: Labels, names: Sequence[str], background: str | None = None) -> Image.Image:
    """Labels as a palette image; as 16-bit grey where more than 255 classes need it."""
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        entries = np.zeros((256, 3), np.uint8)
        entries[: len(names)] = colours(names, background)
        entries[void(labels)] = VOID
        image.putpalette(entries.tobytes())
    return image


def overlay(
    pixels: NDArray[np.uint8],
    labels: Labels,
    names: Sequence[str],
    background: str | None = None,
) -> Image.Image:
    """The painted picture, and right of it a legend by share; arguments as for `painted`."""
    counts = totals(labels, len(names))
    by_share = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    paint, none = colours(names, background), labels.size - int(counts.sum())
    bare = [i for i in by_share if names[i] == background]
    rows = [(names[i], paint[i], counts[i] / labels.size) for i in by_share if i not in bare]
    rows += [(names[i], None, counts[i] / labels.size) for i in bare]  # as they are in the picture
    rows += [("none of these", None, none / labels.size)] if none else []
    page = _legend(labels.shape, rows)
    page.paste(painted(pixels, labels, names, background), (0, 0))
    return page


def painted(
    pixels: NDArray[np.uint8],
    labels: Labels,
    names: Sequence[str],
    background: str | None = None,
) -> Image.Image:
    """The picture under its classes' colours and outlines, with names on large regions.

    Args:
        pixels: (H, W, 3) uint8.
        labels: (H, W), index into `names`; the type's largest value is no class.
        background: the class left uncoloured.
    """
    every = np.iinfo(labels.dtype).max + 1
    paint, opacity = np.zeros((every, 3), np.float32), np.zeros(every, np.float32)
    paint[: len(names)], opacity[: len(names)] = colours(names, background), ALPHA
    if background is not None:
        opacity[list(names).index(background)] = 0
    page = Image.new("RGB", (labels.shape[1], labels.shape[0]))
    for rows in bands(labels.shape):
        alpha = opacity[labels[rows]][..., None]
        mixed = pixels[rows] * (1 - alpha) + paint[labels[rows]] * alpha
        dark, light = _outlines(labels, rows)
        mixed[dark] *= _DARK
        mixed[light] += (255 - mixed[light]) * np.float32(_LIGHT)
        page.paste(Image.fromarray(mixed.round().astype(np.uint8)), (0, rows.start))
    _write_names(page, labels, names, background)
    return page


def percent(share: float) -> str:
    """The share of a class that is present, in whole per cent."""
    text = f"{share:.0%}"
    return "<1%" if text == "0%" else text


def _outlines(labels: Labels, rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The two sides of every boundary, for a band of rows: pixels that another label follows to the
    right or below, and pixels that one precedes; as wide as the picture is large.
    """
    width = _line_width(labels.shape)
    top, bottom = max(rows.start - width, 0), min(rows.stop + width, len(labels))
    near = labels[top:bottom]
    before, after = np.zeros(near.shape, bool), np.zeros(near.shape, bool)
    for step in range(1, width + 1):
        across, down = near[:, step:] != near[:, :-step], near[step:] != near[:-step]
        after[:, step:] |= across
        after[step:] |= down
        before[:, :-step] |= across
        before[:-step] |= down
    own = slice(rows.start - top, rows.stop - top)
    return (before & ~after)[own], after[own]


def _line_width(size: Size) -> int:
    """Pixels of an outline's light or dark line."""
    return max(1, round(min(size) / 700))


def _font_size(size: Size) -> int:
    return int(np.clip(max(min(size), 160) / 24, 12, 44))


def _write_names(
    page: Image.Image, labels: Labels, names: Sequence[str], background: str | None
) -> None:
    """Put the name of every class into a region that it fits into, where there is one."""
    pen, size = ImageDraw.Draw(page), _font_size(labels.shape)
    font = ImageFont.load_default(size)
    stride = -(-max(labels.shape) // _ROOMS)
    small = labels[::stride, ::stride]
    for label in np.unique(small).tolist():
        if label >= len(names) or names[label] == background:
            continue
        text = names[label].removeprefix("segment ")
        left, top, right, bottom = font.getbbox(text)
        box = (
            int(np.ceil((bottom - top + size * 0.8) / stride)),
            int(np.ceil((right - left + size * 0.8) / stride)),
        )
        place = _room(small == label, box)
        if place is not None:
            pen.text(
                (place[1] * stride, place[0] * stride),
                text,
                fill="white",
                font=font,
                anchor="mm",
                stroke_width=max(1, size // 9),
                stroke_fill=(20, 22, 28),
            )


def _room(mask: NDArray[np.bool_], box: Size) -> tuple[float, float] | None:
    """The middle (row, column) of the box that lies in a mask and deepest in it; None for none."""
    if box[0] > mask.shape[0] or box[1] > mask.shape[1] or mask.sum() < box[0] * box[1]:
        return None
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    table[1:, 1:] = mask.cumsum(0).cumsum(1)
    rows = np.arange(mask.shape[0] - box[0] + 1)[:, None]
    columns = np.arange(mask.shape[1] - box[1] + 1)

    def filled(grow: int) -> NDArray[np.float64]:
        """Share of the boxes, grown to all sides and cut at the picture, that the mask fills."""
        top, left = np.maximum(rows - grow, 0), np.maximum(columns - grow, 0)
        bottom = np.minimum(rows + box[0] + grow, mask.shape[0])
        right = np.minimum(columns + box[1] + grow, mask.shape[1])
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        share: NDArray[np.float64] = inside / ((box[0] + 2 * grow) * (box[1] + 2 * grow))
        return share

    fits = filled(0)
    if fits.max() < 1:
        return None
    depth = sum(filled(grow) for grow in (box[0] // 2, box[0], 2 * box[0], 4 * box[0]))
    best = np.unravel_index(int(np.where(fits == 1, depth, -1).argmax()), fits.shape)
    return float(best[0] + box[0] / 2), float(best[1] + box[1] / 2)


def _legend(
    size: Size, entries: Sequence[tuple[str, NDArray[np.uint8] | None, float]]
) -> Image.Image:
    """A page with room for the picture, and right of it a swatch, name and share a class; the
    swatch of what is uncoloured is empty."""
    rows, columns = size
    height, text = max(rows, 160), _font_size(size)
    font = ImageFont.load_default(text)
    line = text * 1.6
    room = max(1, int((height - text) // line))
    shown = entries if len(entries) <= room else entries[: room - 1]
    names = [name for name, _, _ in shown]
    if len(shown) < len(entries):
        names.append(f"and {len(entries) - len(shown)} more")
    shares = [percent(share) for _, _, share in shown]
    widest = max((font.getlength(name) for name in names), default=0)
    figures = max((font.getlength(share) for share in shares), default=0)
    width = int(widest + figures + text * 4.2) if names else text
    page = Image.new("RGB", (columns + width, height), PANEL)
    pen = ImageDraw.Draw(page)
    for row, name in enumerate(names):
        x, y = columns + text * 0.8, text * 0.7 + row * line
        if row < len(shown):
            colour = shown[row][1]
            fill = None if colour is None else tuple(colour.tolist())
            pen.rounded_rectangle(
                (x, y, x + text, y + text), text // 4, fill, None if fill else INK
            )
            end = (page.width - text * 0.8, y + text / 2)
            pen.text(end, shares[row], fill=INK, font=font, anchor="rm")
        pen.text((x + text * 1.6, y + text / 2), name, fill=INK, font=font, anchor="lm")
    return page
