"""Read a picture as the network wants it: upright, RGB, 8 bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file: (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Transparent pixels are laid on white; 16-bit greys are scaled to 8 bits, wider and floating
    ones by their largest value.

    Raises:
        ImageError: no such file, not an image, truncated, or too large to be safe to decode.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise ImageError(f"image {path} {kind}; give a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"image {path} is too large ({error}); resize it first") from error
    except UnidentifiedImageError:
        raise ImageError(f"{path} is no image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"image {path} is damaged: {error}") from error


def check_image(image: Any) -> NDArray[np.uint8]:
    """An array a caller handed over, as (H, W, 3) uint8.

    Raises:
        ImageError: another shape or type.
    """
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and array.size:
        return array
    raise ImageError(f"image is {array.dtype} {array.shape}, expected uint8 (H, W, 3) in RGB order")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64)
        if not np.isfinite(grey).all():
            raise ValueError("a pixel is not a finite number")
        top = 65535.0 if image.mode.startswith("I;16") else max(float(grey.max()), 1.0)
        image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
