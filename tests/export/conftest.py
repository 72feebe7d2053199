"""One export per model shape and session: tracing is what costs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/random_models.py

import random_models

from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions

Export = Callable[..., ExportReport]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def sd1(workspace: Path) -> Path:
    return random_models.save_sd1(workspace / "sd1")


@pytest.fixture(scope="session")
def sd2(workspace: Path) -> Path:
    return random_models.save_sd2(workspace / "sd2", tiny_vae=True)


@pytest.fixture(scope="session")
def odd(workspace: Path) -> Path:
    return random_models.save_odd(workspace / "odd")


@pytest.fixture(scope="session")
def sd1_report(sd1: Path, workspace: Path) -> ExportReport:
    """SD 1.x-shaped, float32, every default."""
    return export(sd1, workspace / "sd1.bundle")


@pytest.fixture(scope="session")
def sd2_report(sd2: Path, workspace: Path) -> ExportReport:
    """SD 2.x-shaped with a TAESD-shaped VAE, float16 arithmetic."""
    options = ExportOptions(
        precision="fp16",
        recommended={"maskdiffusion": {"pooling": "softmax", "timestep": 40}},
        classes=(("sky",), ("traffic light", "signal")),
    )
    return export(sd2, workspace / "sd2.bundle", options)


@pytest.fixture(scope="session")
def odd_options() -> dict[str, Any]:
    """Options that suit the odd model: its VAE has two levels, so strides are small."""
    return {"feature_strides": (8, 4), "attention_strides": (8,)}


@pytest.fixture(scope="session")
def odd_report(odd: Path, workspace: Path, odd_options: dict[str, Any]) -> ExportReport:
    """The odd model, bfloat16 arithmetic."""
    return export(odd, workspace / "odd.bundle", ExportOptions(precision="bf16", **odd_options))
