"""Pictures as callers send them: files of a few kinds, within limits; nothing is fetched."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..pictures.images import read_image
from .limits import Limits
from .problems import Problem, bad

KINDS: Final = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""By Pillow's names: others call programs of the machine's, or are no pictures."""

_DATA: Final = re.compile(r"data:image/[\w.+-]+;base64,")
_NAME: Final = 120


@dataclass(frozen=True)
class Upload:
    """A picture's file, not decoded yet, and what its sender calls it."""

    data: bytes
    name: str

    @property
    def stem(self) -> str:
        """For the names of files that are made of it."""
        return re.sub(r"[^\w.-]+", "_", PurePosixPath(self.name).stem).strip("._") or "picture"

    def read(self, limits: Limits) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB.

        Raises:
            ImageError: it is no picture of `KINDS`, is damaged, or has too many pixels.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                opened = Image.open(io.BytesIO(self.data), formats=KINDS)
        except Image.DecompressionBombError as error:
            raise ImageError(f"picture {self.name} is too large: {error}") from None
        except UnidentifiedImageError:
            raise ImageError(
                f"{self.name} is no picture that is read here; send {', '.join(KINDS[:-1])} or WebP"
            ) from None
        except Exception as error:  # decoders raise whatever they meet
            raise ImageError(f"picture {self.name} is damaged ({error})") from None
        with opened:
            width, height = opened.size
            if width * height > limits.pixels:
                raise ImageError(
                    f"picture {self.name} has {width}×{height} pixels, and at most "
                    f"{limits.pixels:,} are taken here; reduce it first"
                )
            return read_image(opened)


def shown_name(name: object) -> str:
    """A file's name, as it may stand in a message or a header."""
    text = PurePosixPath(str(name or "").replace("\\", "/")).name
    return "".join(c if c.isprintable() else "_" for c in text)[:_NAME] or "picture"


def from_json(value: Any) -> Upload:
    """A picture in JSON: base64, bare or as a data URI, or {"name": …, "data": base64}.

    Raises:
        Problem: it is another thing, as a path or an address.
    """
    name = "picture"
    if isinstance(value, Mapping):
        name, value = shown_name(value.get("name")), value.get("data")
    if not isinstance(value, str):
        raise bad(f"{name} is {type(value).__name__}, expected its file in base64")
    found = _DATA.match(value)
    try:
        return Upload(
            base64.b64decode(value[found.end() :] if found else value, validate=True), name
        )
    except ValueError:  # no base64, or not ASCII
        raise _no_base64(name, value) from None


def _no_base64(name: str, value: str) -> Problem:
    return bad(
        f"{name} begins with {value[:24]!r} and is no base64; pictures are sent, never "
        "read from a path or an address"
    )
