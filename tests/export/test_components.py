"""Components are found and loaded however their weights are stored."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest
import random_models
import torch

from mdrt.export.components import open_pipeline


@pytest.fixture(scope="module")
def fp16(workspace: Path) -> Path:
    """The pipeline of `sd1`, its weights only in half precision, as `*.fp16.safetensors`."""
    return random_models.save_sd1(workspace / "fp16", variant="fp16")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pipeline_of_variant_weights_only(sd1: Path, fp16: Path, part: str) -> None:
    (file,) = (fp16 / part).glob("*.safetensors")
    assert file.name.endswith("model.fp16.safetensors")
    plain, variant = (random_models.load_part(open_pipeline(path), part) for path in (sd1, fp16))
    for name, weight in plain.state_dict().items():
        found = attrgetter(name)(variant)
        assert found.dtype == weight.dtype, name  # widened: arithmetic is float32
        torch.testing.assert_close(found.data, weight.half().to(weight.dtype), rtol=0, atol=0)
    assert {values.dtype for values in variant.parameters()} == {torch.float16, torch.float32}
