"""What all tests share: the embedded model, loaded once, and a held-out scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import render


@pytest.fixture(scope="session")
def segmenter() -> mdrt.Segmenter:
    return mdrt.Segmenter()


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A 256² scene the embedded model was not trained on."""
    return render(6).image


@pytest.fixture
def picture_file(picture: NDArray[np.uint8], tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(picture).save(path)
    return path
