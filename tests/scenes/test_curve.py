"""The curve of a training run: the last word on every step, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.benchmarks.lab.__main__ import main
from mdrt.benchmarks.lab.scenes import curve
from mdrt.runtime.errors import MdrtError

ROWS = (
    {"stage": "recipe", "steps": 18_000},
    {"stage": "unet", "step": 225, "loss": 0.5},
    {"stage": "unet", "step": 249, "told": 0.5, "untold": 0.6},
    {"stage": "unet", "step": 499, "told": 0.9, "untold": 0.9},
    {"stage": "recipe", "steps": 18_000},  # killed and resumed
    {"stage": "unet", "step": 499, "told": 0.3, "untold": 0.4},
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_resumed_run_has_one_loss_a_step(log: Path) -> None:
    assert curve.read_losses(log) == {
        250: {"told": 0.5, "untold": 0.6},
        500: {"told": 0.3, "untold": 0.4},
    }


def test_the_curve_is_a_picture(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "curve.png"
    done = CliRunner().invoke(main, ["curve", str(log), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "step 500, loss 0.3000 with the caption, 0.4000 without" in done.output
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert np.ptp(picture, axis=(0, 1)).max() > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no losses yet"),
        ('{"stage": "vae", "step": 0}\n', "no losses yet"),
        ('{"step": 249, "told": 0.5, "unto', "line 1: expected a row of a training log"),
        ('{"step": 249, "told": 0.5}\n', "line 1: expected a row of a training log"),
        ("3\n", "line 1: expected a row of a training log"),
    ],
)
def test_what_is_no_log_is_said(log: Path, text: str, said: str) -> None:
    log.write_text(text)
    with pytest.raises(MdrtError, match=said):
        curve.read_losses(log)
