"""What all tests share: the embedded model, loaded once, and a held-out scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.runtime.segmenter import EMBEDDED


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


@pytest.fixture(scope="session")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The diffusers pipeline that the embedded model was exported from."""
    pytest.importorskip("onnx")
    pytest.importorskip("safetensors")
    from mdrt.benchmarks.lab.scenes.storybook import write_pipeline

    folder = tmp_path_factory.mktemp("source") / "storybook"
    write_pipeline(folder, EMBEDDED)
    return folder
