"""What the VAE of a diffusers pipeline encodes to."""

from __future__ import annotations

import math
from typing import Final

import diffusers
import torch

from ...runtime.bundle.contract import LatentSpec
from ...runtime.errors import ExportError
from ..components import Pipeline
from ..graphs import encoded
from ..refusal import refusing

_PROBE: Final = 512  # pixels; costs nothing on the meta device


def latent_spec(pipeline: Pipeline, deviation: float = 1.0) -> LatentSpec:
    """What the VAE's configuration says of its latents, and a run on the meta device; `deviation`
    is what the scaled ones have where the network's have 1.

    Raises:
        ExportError: the configuration cannot be built, or scales by no number.
    """
    config = pipeline.vae_config()
    with refusing("the VAE's configuration cannot be built"), torch.device("meta"), torch.no_grad():
        vae = getattr(diffusers, pipeline.vae_class).from_config(config)
        latent = encoded(vae.eval(), torch.empty(1, 3, _PROBE, _PROBE))
        scaling, shift = (
            float(vae.config.scaling_factor),
            float(vae.config.get("shift_factor") or 0),
        )
    if not (0 < scaling < math.inf and math.isfinite(shift)):
        raise ExportError(
            f"the VAE's scaling_factor is {scaling} and its shift_factor {shift}; "
            "expected a positive number, and a number or null"
        )
    return LatentSpec(
        _PROBE // int(latent.shape[2]), int(latent.shape[1]), scaling / deviation, shift
    )
