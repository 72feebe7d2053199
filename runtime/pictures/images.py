"""A picture, however it arrives, as the network wants it: upright, RGB, 8 bits."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import ImageError
from .bands import bands

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | NDArray[np.uint8]
)
"""What `read_image` takes."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the picture upright (EXIF 2.32, tag 274)."""


def read_image(image: ImageLike, most_side: int | None = None) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Transparent pixels are laid on white. Integer greys of more than 8 bits are taken as 16 bits
    wide, 0…65535; floating ones as 0…1, or as 0…255 if the largest is 2 or more.

    Args:
        image: a path; a file's bytes, or the file itself, open for reading bytes; a Pillow image;
            or a uint8 array (H, W), (H, W, 3) in RGB order or (H, W, 4).
        most_side: pixels that its longer side may have; None for any number. Of all its pixels
            Pillow's own `Image.MAX_IMAGE_PIXELS` is the limit.

    Raises:
        ImageError: no such file, not an image, truncated, too large to be safe to decode, a grey
            outside those ranges, or another array.
    """
    name = source_name(image) or "given"
    if isinstance(image, np.ndarray):
        image = _from_array(image)
        if isinstance(image, np.ndarray):
            return image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's name its own files, not the picture's
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(image, Image.Image):
                image.load()
                return _to_rgb(_upright(image), name)
            with Image.open(_file(image)) as opened:
                if most_side is not None and max(opened.size) > most_side:
                    raise ImageError(
                        f"image {name} has a side of {max(opened.size)} pixels, the limit is "
                        f"{most_side}; resize it first",
                        max_side=...,
                    )
                opened.load()
                return _to_rgb(_upright(opened), name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        remedy = "resize it first"
        if name.lower().endswith((".tif", ".tiff")):
            remedy += ", or give it to `mdrt raster`"
        raise ImageError(
            f"image {name} is too large ({error}); {remedy}", max_pixels=...
        ) from error
    except UnidentifiedImageError:
        raise ImageError(f"image {name} is no picture that Pillow can read") from None
    except Exception as error:  # decoders raise whatever they meet: struct.error, TypeError, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"image {name} is damaged or of a kind that Pillow cannot decode ({reason}); "
            "save it anew, as PNG or JPEG"
        ) from error


def source_name(image: ImageLike) -> str | None:
    """Where a picture is from, as far as that is known: its path."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    return name if isinstance(name, str) else None


def _file(image: Any) -> Path | BinaryIO:
    """What Pillow opens.

    Raises:
        ImageError: there is no such file, or it is no picture at all.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(os.fsdecode(image))
        if path.is_file():
            return path
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise ImageError(f"image {path} {kind}; give the path of a picture")
    if isinstance(image, bytes | bytearray | memoryview):
        return io.BytesIO(image)
    if hasattr(image, "read") and not isinstance(image, io.TextIOBase):
        return image  # type: ignore[no-any-return]
    raise ImageError(
        f"image is of type {type(image).__name__}, expected a path, bytes, a file open for reading "
        "bytes, a Pillow image or a uint8 array"
    )


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8] | Image.Image:
    """An RGB array as it is, one of grey or with transparency as a Pillow image.

    Raises:
        ImageError: another shape or type.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype == np.uint8 and array.size and array.ndim in (2, 3):
        if array.ndim == 3 and channels == 3:
            return array
        if array.ndim == 2 or channels == 4:
            return Image.fromarray(array)
    raise ImageError(
        f"image is {array.dtype} {array.shape}, expected uint8 (H, W), (H, W, 3) in RGB order or "
        "(H, W, 4)"
    )


def shrink(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The means of (H, W, 3) over the cells of a grid (rows, columns) that covers it."""
    columns_rows = size[1], size[0]
    return np.asarray(Image.fromarray(image).resize(columns_rows, Image.Resampling.BOX))


def _upright(image: Image.Image) -> Image.Image:
    """The picture as it is to be seen. Metadata may be broken where pixels are not, so nothing but
    the orientation is read, and `ImageOps.exif_transpose`, which rewrites it all, is not used.
    """
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever the parser trips over
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """The picture's pixels, a band of rows at a time: whole pictures between would cost more
    memory than the decoded one and these together."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(np.asarray(image), name)
    transparent = "A" in image.getbands() or "transparency" in image.info
    try:
        pixels = np.empty((image.height, image.width, 3), np.uint8)
    except MemoryError as error:  # a decoder's own may be of a damaged size
        raise ImageError(
            f"image {name} takes more memory than there is ({error}); resize it first"
        ) from error
    for rows in bands(pixels.shape):
        band = image.crop((0, rows.start, image.width, rows.stop))
        if transparent:
            white = Image.new("RGBA", band.size, "white")
            band = Image.alpha_composite(white, band.convert("RGBA"))
        pixels[rows] = np.asarray(band.convert("RGB"))
    return pixels


def _eight_bits(grey: NDArray[Any], name: str) -> Image.Image:
    scale = np.float32(_scale(grey, name))
    pixels = np.empty(grey.shape, np.uint8)
    for rows in bands(grey.shape):
        pixels[rows] = (grey[rows] * scale).round().astype(np.uint8)
    return Image.fromarray(pixels)


def _scale(grey: NDArray[Any], name: str) -> float:
    """What brings deep greys to 0…255: never their own maximum, or one bright pixel would change
    the brightness of all others.
    """
    low, high = grey.min(), grey.max()  # NaN if a pixel is, and then no comparison holds
    if grey.dtype.kind == "f":
        expected = "floating-point values from 0 to 1 or 0 to 255"
        if low >= 0 and high <= 1:
            return 255.0
        # A maximum between 1 and 2 overshoots 0…1; taken as 0…255 the picture would be black.
        if low >= 0 and 2 <= high <= 255:
            return 1.0
    else:
        expected = "integers from 0 to 65535"
        if low >= 0 and high <= 65535:
            return 255 / 65535
    raise ImageError(
        f"image {name} has values from {low:g} to {high:g}, expected {expected}; "
        "clip or rescale it first"
    )
