"""`mdrt bench parity` on bundles of every kind that `mdrt export` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import random_models
import torch
from click.testing import CliRunner, Result

from mdrt.cli import main
from mdrt.export.exporter import export
from mdrt.export.options import ExportOptions


def parity(bundle: Path, pipeline: Path, *arguments: object) -> Result:
    command = ["bench", "parity", "--engine", bundle, "--pipeline", pipeline, "--json"]
    return CliRunner().invoke(main, [*map(str, command), "--classes", "3", *map(str, arguments)])


@pytest.fixture(scope="module")
def vae(workspace: Path) -> Path:
    """A VAE of another kind than the pipeline's own, which is a TAESD's."""
    torch.manual_seed(7)
    random_models.make_vae(tiny=False, levels=4, sample_size=16).save_pretrained(workspace / "kl")
    return workspace / "kl"


@pytest.fixture(scope="module")
def bundle(sd2: Path, vae: Path, workspace: Path) -> Path:
    """All three at once: tracing is what costs."""
    options = ExportOptions(weights="fp16", self_attention_strides=(64, 32), vae=vae)
    return export(sd2, workspace / "parity.bundle", options).path


def test_half_weights_self_attention_and_another_vae(bundle: Path, sd2: Path, vae: Path) -> None:
    done = parity(bundle, sd2, "--vae", vae)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    rows = {row["tensor"]: row for row in found["tensors"]}
    assert {"latent", "self_queries_s64_0", "self_keys_s32_0"} <= rows.keys()
    assert all(row["passed"] for row in rows.values())
    assert max(row["error"] for row in rows.values()) > 1e-4  # of the weights' rounding
    assert {row["tolerance"] for row in rows.values()} == {1e-2}
    assert {row["mode"] for row in found["labels"]} == {"paper", "released"}
    assert all(row["share"] > 0.98 for row in found["labels"])


def test_the_vae_must_be_the_bundles(bundle: Path, sd2: Path, tmp_path: Path) -> None:
    done = parity(bundle, sd2)
    assert done.exit_code == 1
    assert "another VAE" in done.stderr
    assert "give the one it was exported with (--vae)" in done.stderr
    assert done.stderr.count("\n") == 1
    done = parity(bundle, sd2, "--vae", tmp_path)
    assert done.exit_code == 1
    assert "config.json" in done.stderr
    assert "Traceback" not in done.stderr
