"""Rasters in and out, a window at a time, by GDAL."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as Pixels

from ..errors import ImageError, OutputError
from .lattice import Window, mirrored

CACHE_BYTES: Final = 128 << 20
"""Of decoded blocks that GDAL keeps; its own choice is a twentieth of the machine's memory."""

SAMPLE: Final = 1024
"""Most pixels a side of the reduced raster that the stretch is taken from."""

STRETCH: Final = (2.0, 98.0)
"""Percentiles that become 0 and 255, of bands that are not 8 bits wide."""

TILE: Final = 512
"""Pixels a side of the tiles that are written."""

WHITE: Final = 255
"""What the network sees where there is no data: what transparent pixels are laid on elsewhere."""


@dataclass(frozen=True)
class Stretch:
    """What brings bands to 8 bits: (bands,) values that become 0 and 255."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Of (bands, rows, columns)."""
        low, high = (ends.astype(np.float32)[:, None, None] for ends in (self.low, self.high))
        scaled = (values.astype(np.float32) - low) * (
            np.float32(255) / np.maximum(high - low, 1e-9)
        )
        scaled = np.nan_to_num(scaled, nan=0, posinf=255, neginf=0)
        bounded: NDArray[np.float32] = np.clip(np.round(scaled), 0, 255)
        return bounded.astype(np.uint8)


class Raster:
    """A raster that is read by windows, as 8-bit RGB.

    Attributes:
        path: of the file.
        size: (height, width).
        bands: numbers of those that are red, green and blue, from 1; one is grey.
        stretch: what brings them to 8 bits; None where they are that wide.
    """

    def __init__(self, path: Path, bands: Sequence[int] | None, most_pixels: int) -> None:
        """Open it.

        Raises:
            ImageError: it is none that GDAL reads, has no such band, or too many pixels.
        """
        if not path.is_file():
            raise ImageError(f"raster {path} does not exist; give the path of a GeoTIFF")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._file = rasterio.open(path)
        except RasterioError as error:
            raise ImageError(f"raster {path} is none that GDAL reads ({_words(error)})") from error
        self.path, self.size = path, (self._file.height, self._file.width)
        try:
            if self.size[0] * self.size[1] > most_pixels:
                raise ImageError(
                    f"raster {path} has {self.size[0] * self.size[1]} pixels, more than the "
                    f"{most_pixels} that are allowed; allow more if it is to be trusted",
                    max_pixels=...,
                )
            self._colours = self._colour_table()
            self.bands = self._chosen(bands)
            deep = self._colours is None and any(self._type(band) != "uint8" for band in self.bands)
            self.stretch = self._stretch() if deep else None
        except BaseException:
            self._file.close()
            raise

    @property
    def corner(self) -> tuple[float, float]:
        """(row, column) of the first pixel, counted from the origin of the coordinates; (0, 0)
        where the raster has none or is turned."""
        place = self._file.transform
        if self._file.crs is None or place.b or place.d:
            return 0.0, 0.0
        return place.f / place.e, place.c / place.a

    @property
    def place(self) -> Mapping[str, Any]:
        """Where it lies: the arguments of a raster that lies there too."""
        known = {"crs": self._file.crs, "transform": self._file.transform}
        return {key: value for key, value in known.items() if self._file.crs is not None}

    def read(self, window: Window, lead: tuple[int, int]) -> NDArray[np.uint8]:
        """(height, width, 3) of a part of the lattice; beyond its edges the raster is mirrored."""
        rows, columns, part = self._part(window, lead)
        values = self._values(part)
        values = np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0).copy()
        values[~self._valid(part)] = WHITE
        whole: NDArray[np.uint8] = values[rows][:, columns]
        return np.ascontiguousarray(whole)

    def valid(self, window: Window, lead: tuple[int, int]) -> NDArray[np.bool_]:
        """(height, width) where a part of the lattice has data; not beyond the raster's edges."""
        (height, width), (top, left) = self.size, lead
        inside = window.common(Window(top, left, top + height, left + width))
        found = np.zeros(window.size, bool)
        if inside.top < inside.bottom and inside.left < inside.right:
            pixels = Pixels(inside.left - left, inside.top - top, *inside.size[::-1])
            found[inside.slices(window)] = self._valid(pixels)
        return found

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _part(
        self, window: Window, lead: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Pixels]:
        """The pixels that a window and its mirrored parts are of, and which go where."""
        rows = mirrored(window.top - lead[0], window.bottom - lead[0], self.size[0])
        columns = mirrored(window.left - lead[1], window.right - lead[1], self.size[1])
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        return rows - top, columns - left, Pixels(left, top, width, height)

    def _values(self, part: Pixels) -> NDArray[np.uint8]:
        """(3 or 1, height, width) of 8 bits."""
        values: NDArray[Any] = self._read(self._file.read, self.bands, window=part)
        if self._colours is not None:
            painted: NDArray[np.uint8] = self._colours[values[0]].transpose(2, 0, 1)
            return painted
        return values if self.stretch is None else self.stretch(values)

    def _valid(self, part: Pixels) -> NDArray[np.bool_]:
        if all(flags == [MaskFlags.all_valid] for flags in self._file.mask_flag_enums):
            return np.ones((int(part.height), int(part.width)), bool)
        found: NDArray[np.bool_] = self._read(self._file.dataset_mask, window=part) > 0
        return found

    def _read(self, read: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """What a reader gives.

        Raises:
            ImageError: the file is damaged.
        """
        try:
            return read(*arguments, **settings)
        except RasterioError as error:
            raise ImageError(f"raster {self.path} is damaged ({_words(error)})") from error

    def _type(self, band: int) -> str:
        return str(self._file.dtypes[band - 1])

    def _colour_table(self) -> NDArray[np.uint8] | None:
        """(256, 3) of a raster of one palette."""
        if self._file.count != 1 or self._file.colorinterp[0] != ColorInterp.palette:
            return None
        table = np.zeros((65536 if self._type(1) == "uint16" else 256, 3), np.uint8)
        for value, colour in self._file.colormap(1).items():
            table[value] = colour[:3]
        return table

    def _chosen(self, bands: Sequence[int] | None) -> list[int]:
        """Those that are read.

        Raises:
            ImageError: the file has none such.
        """
        colours = [
            band
            for band, meaning in enumerate(self._file.colorinterp, 1)
            if meaning not in (ColorInterp.alpha,)
        ]
        if bands is None:
            if len(colours) == 2:
                return colours[:1]
            return colours[: 3 if len(colours) >= 3 else 1]
        missing = [band for band in bands if not 1 <= band <= self._file.count]
        if missing or len(bands) not in (1, 3):
            raise ImageError(
                f"bands are {','.join(map(str, bands))}, expected one, or those of red, green and "
                f"blue, of the {self._file.count} that {self.path} has",
                bands=...,
            )
        return list(bands)

    def _stretch(self) -> Stretch:
        """From percentiles of a reduced raster, so that it is the same for all windows."""
        shape = tuple(min(side, SAMPLE) for side in self.size)
        # Nearest, for what lies between data and none is neither.
        read = {"out_shape": (len(self.bands), *shape), "resampling": Resampling.nearest}
        sample = self._read(self._file.read, self.bands, **read)
        mask = self._read(self._file.dataset_mask, out_shape=shape) > 0
        found = []
        for values in sample:
            held = values[mask & np.isfinite(values)]
            if not held.size:
                raise ImageError(f"raster {self.path} has no pixel with data")
            found.append(np.percentile(held, STRETCH))
        low, high = np.array(found).T
        return Stretch(low, high)


@contextmanager
def small_cache() -> Iterator[None]:
    """While rasters are read and written, GDAL keeps little of them, and no files beside them."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_PAM_ENABLED="NO"):
        yield


def write_labels(
    target: Path,
    aside: Path,
    size: tuple[int, int],
    place: Mapping[str, Any],
    blocks: Iterator[tuple[tuple[int, int], NDArray[Any]]],
    names: Sequence[str],
    colours: NDArray[np.uint8],
    void: int,
    progress: Callable[[int], None],
) -> None:
    """Write labels as a cloud-optimised GeoTIFF: tiles, overviews, colour table, void as nodata.

    Args:
        target: replaced when all is written.
        aside: a folder of the same file system for what is on its way.
        size: (height, width).
        place: the raster's `place`.
        blocks: (top, left) and labels of each part, all of one type.
        names: of the classes; a band's tags CLASS_0, CLASS_1, … hold them.
        colours: (classes, 3) uint8.
        void: the label of no class.
        progress: told how many blocks are written.

    Raises:
        OutputError: the disk refused.
    """
    plain, whole = aside / "plain.tif", aside / "whole.tif"
    kind = "uint8" if void < 256 else "uint16"
    profile = {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 1,
        "dtype": kind,
        "nodata": void,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "bigtiff": "if_safer",
        **place,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(plain, "w", **profile) as file:
                if kind == "uint8":
                    file.write_colormap(1, {i: (*c, 255) for i, c in enumerate(colours.tolist())})
                file.update_tags(1, **{f"CLASS_{label}": name for label, name in enumerate(names)})
                for done, ((top, left), labels) in enumerate(blocks, 1):
                    file.write(labels, 1, window=Pixels(left, top, *labels.shape[::-1]))
                    progress(done)
            copy_raster(
                plain,
                whole,
                driver="COG",
                compress="DEFLATE",
                blocksize=TILE,
                overview_resampling="mode",
                bigtiff="if_safer",
            )
        whole.replace(target)
    except (RasterioError, OSError) as error:
        raise OutputError(f"{target} cannot be written: {_words(error)}") from error
    finally:
        for path in (plain, whole):
            path.unlink(missing_ok=True)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
