"""Folders of formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdrt.runtime.writers import find_format
from mdrt.runtime.writers.base import Picture
from mdrt.runtime.writers.folder import Folder

from .made import run_of


@pytest.fixture
def written(tmp_path):
    """Writes results, by key, into the folder of a format, and gives it."""

    def write(name: str, results, run=None, **options) -> Path:
        folder = Folder(tmp_path / name, find_format(name), run or run_of(), **options)
        for key, result in results.items():
            source = None if result.source is None else Path(result.source)
            folder.write(result, Picture(key, f"{key}.png", source))
        folder.close()
        return tmp_path / name

    return write
