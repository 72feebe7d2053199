"""A copy of the embedded bundle to put engines into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mdrt.runtime.segmenter import EMBEDDED


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "bundle")
