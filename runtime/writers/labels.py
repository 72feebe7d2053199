"""Labels in the values of tools that keep 0 for the background, and pictures beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ...kernels import void
from ..errors import OutputError
from ..pictures.palette import VOID
from ..pictures.render import Labels
from ..segmentation import Segmentation
from .base import Picture, Run, Write, rgb

VOID_VALUE: Final = 255
"""Of pixels that belong to no class."""

MOST: Final = 254
"""Classes that 8 bits hold beside the background and void."""

BACKGROUND: Final = "background"

_QUALITY: Final = 95


def check_count(run: Run, name: str) -> None:
    """See that the classes of a run fit into 8 bits.

    Raises:
        OutputError: they do not.
    """
    foreground = [entry for entry in run.names or () if entry != run.background]
    if len(foreground) > MOST:
        raise OutputError(
            f"format {name} holds {MOST} classes beside the background, and these are "
            f"{len(foreground)}; give fewer, or take png or coco"
        )


def values(run: Run, count: int) -> list[int]:
    """The value of each label: 0 of the background class, the others from 1 on."""
    names = run.named(count)
    found, following = [], 1
    for name in names:
        background = run.background is not None and name == run.background
        found.append(0 if background else following)
        following += not background
    return found


def value_map(labels: Labels, run: Run, count: int) -> NDArray[np.uint8]:
    """(H, W) uint8 of those values; `VOID_VALUE` where there is no class.

    Raises:
        OutputError: there are too many.
    """
    table = np.full(void(labels) + 1, VOID_VALUE, np.uint8)
    found = values(run, count)
    if max(found, default=0) > MOST:
        raise OutputError(f"{max(found)} segments do not fit into 8 bits; ask for fewer")
    table[: len(found)] = found
    return table[labels]


def named_values(run: Run, count: int) -> dict[int, tuple[str, list[int]]]:
    """Name and colour of every value, that of the background first."""
    found = {0: (run.background or BACKGROUND, [0, 0, 0])}
    for value, entry in zip(values(run, count), run.classes(count), strict=True):
        if value:
            found[value] = entry["name"], list(rgb(entry["colour"]))
    return found


def palette_image(indexed: NDArray[np.uint8], run: Run, count: int) -> Image.Image:
    """A palette image of such values."""
    entries = np.zeros((256, 3), np.uint8)
    for value, (_, colour) in named_values(run, count).items():
        entries[value] = colour
    entries[VOID_VALUE] = VOID
    image = Image.fromarray(indexed)
    image.putpalette(entries.tobytes())
    return image


def png(image: Image.Image, **settings: Any) -> Write:
    """Write an image as PNG."""
    return lambda file: image.save(file, format="PNG", **settings)


def jpeg(result: Segmentation, picture: Picture) -> Write:
    """Write the picture as JPEG, upright and of the labels' size: a file that is one is copied."""
    source = picture.source
    if source is not None and _is_upright_jpeg(source, result.labels.shape):

        def copy(file: BinaryIO) -> None:
            with source.open("rb") as original:
                shutil.copyfileobj(original, file)

        return copy
    return lambda file: Image.fromarray(result.image).save(file, format="JPEG", quality=_QUALITY)


def _is_upright_jpeg(source: Any, size: tuple[int, ...]) -> bool:
    try:
        with Image.open(source) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
            return (
                image.format == "JPEG"
                and image.mode in ("RGB", "L")
                and (not turned and (image.height, image.width) == size)
            )
    except Exception:  # it was read before: whatever is wrong with it now, the pixels are here
        return False


def labelmap(found: Mapping[int, tuple[str, list[int]]]) -> str:
    """`labelmap.txt` of VOC as CVAT and Datumaro read it: name:colour:parts:actions."""
    lines = [
        f"{name.replace(':', ' ')}:{','.join(map(str, colour))}::"
        for name, colour in found.values()
    ]
    return "\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n"
