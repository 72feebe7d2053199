"""One export per model shape and run, whichever of its workers needs it first: tracing is what
costs."""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/random_models.py

import random_models

from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.export.proof import Row
from mdrt.runtime.bundle.loading import load_bundle

Export = Callable[..., ExportReport]
Made = TypeVar("Made")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers: what lies in it is not to be changed."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


def once(folder: Path, name: str, make: Callable[[Path], Made]) -> Made:
    """What is made in a folder under a name, by the first that asks."""
    kept = folder / f"{name}.pickle"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make(folder / name)))
    made: Made = pickle.loads(kept.read_bytes())
    return made


def exported(
    folder: Path, name: str, model: Path, options: ExportOptions | None = None
) -> ExportReport:
    """The report of a bundle, written once."""

    def parts(path: Path) -> tuple[Path, tuple[Row, ...], int]:
        report = export(model, path, options)
        return report.path, report.proof, report.weight_bytes

    path, proof, size = once(folder, name, parts)
    return ExportReport(path, load_bundle(path).manifest, proof, size)


@pytest.fixture(scope="session")
def sd1(common: Path) -> Path:
    return once(common, "sd1", random_models.save_sd1)


@pytest.fixture(scope="session")
def sd2(common: Path) -> Path:
    return once(common, "sd2", lambda path: random_models.save_sd2(path, tiny_vae=True))


@pytest.fixture(scope="session")
def odd(common: Path) -> Path:
    return once(common, "odd", random_models.save_odd)


@pytest.fixture(scope="session")
def sd1_report(sd1: Path, common: Path) -> ExportReport:
    """SD 1.x-shaped, float32, every default."""
    return exported(common, "sd1.bundle", sd1)


@pytest.fixture(scope="session")
def sd2_report(sd2: Path, common: Path) -> ExportReport:
    """SD 2.x-shaped with a TAESD-shaped VAE, float16 arithmetic."""
    options = ExportOptions(
        precision="fp16",
        recommended={"maskdiffusion": {"pooling": "softmax", "timestep": 40}},
        classes=(("sky",), ("traffic light", "signal")),
    )
    return exported(common, "sd2.bundle", sd2, options)


@pytest.fixture(scope="session")
def odd_options() -> dict[str, Any]:
    """Options that suit the odd model: its VAE has two levels, so strides are small."""
    return {"feature_strides": (8, 4), "attention_strides": (8,)}


@pytest.fixture(scope="session")
def odd_report(odd: Path, common: Path, odd_options: dict[str, Any]) -> ExportReport:
    """The odd model, bfloat16 arithmetic."""
    options = ExportOptions(precision="bf16", **odd_options)
    return exported(common, "odd.bundle", odd, options)
