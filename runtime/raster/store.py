"""What was seen of a raster, block by block, on the disk beside its result.

It is far larger than memory, the networks took long to make it, and whoever is killed goes on from
there: every file is whole or not there, and a folder is of one job or begun anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..disk.atomic import write_atomically
from ..errors import OutputError
from .lattice import Window


class Store:
    """A folder of arrays (channels, rows, columns), one a block and name."""

    def __init__(self, folder: Path, blocks: Iterable[Window]) -> None:
        self.folder, self.blocks = folder, list(blocks)

    def begin(self, job: Mapping[str, Any], need: int) -> None:
        """Go on with a job, or begin it where the folder holds none or another.

        Args:
            job: all that results depend on, as JSON gives it back.
            need: bytes that the whole of it will take.

        Raises:
            OutputError: the folder cannot be made, or its disk is too small.
        """
        described = json.dumps(job, indent=1, sort_keys=True)
        path = self.folder / "job.json"
        try:
            if path.is_file() and path.read_text(encoding="utf-8") == described:
                return
            self.sweep()
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be made: {error.strerror or error}; it holds what was seen "
                "until the result is written"
            ) from error
        free = shutil.disk_usage(self.folder).free
        if free < need:
            self.sweep()
            raise OutputError(
                f"{self.folder.parent} has {free / 1e9:.1f} GB left, and what is seen of this "
                f"raster takes {need / 1e9:.1f} GB until the result is written; write to a larger "
                "disk"
            )
        write_atomically(path, lambda file: file.write(described.encode()))

    def has(self, index: int, name: str) -> bool:
        return self._path(index, name).is_file()

    def put(self, index: int, name: str, values: NDArray[Any]) -> None:
        """Keep an array of a block.

        Raises:
            OutputError: the disk refused.
        """
        write_atomically(
            self._path(index, name),
            lambda file: np.lib.format.write_array(file, values, allow_pickle=False),
        )

    def get(self, index: int, name: str) -> NDArray[Any]:
        """An array of a block, read when its values are."""
        found: NDArray[Any] = np.load(self._path(index, name), mmap_mode="r", allow_pickle=False)
        return found

    def window(self, name: str, part: Window, stride: int) -> NDArray[Any]:
        """An array put together from the blocks that it lies in.

        Args:
            part: of the lattice, in pixels.
            stride: pixels of a cell.
        """
        wanted, whole = part.cells(stride), None
        for index, block in enumerate(self.blocks):
            own = block.cells(stride)
            both = own.common(wanted)
            if both.top < both.bottom and both.left < both.right:
                values = self.get(index, name)
                if whole is None:
                    whole = np.empty((len(values), *wanted.size), values.dtype)
                whole[:, *both.slices(wanted)] = values[:, *both.slices(own)]
        assert whole is not None
        return whole

    def drop(self, index: int, name: str) -> None:
        self._path(index, name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int, name: str) -> Path:
        return self.folder / f"{index:06d}.{name}.npy"
