"""How a diffusers scheduler says that its model was trained with noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import diffusers
import torch

from ...runtime.bundle.contract import NoiseSpec
from ...runtime.errors import ExportError
from ..components import Pipeline
from ..refusal import refusing

_PREDICTED: Final = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Schedule:
    """The noise of a model.

    Attributes:
        noise: as in the manifest.
        timesteps: what the network itself is told at each level; empty for the level's number.
        deviation: of the latents that it was trained on, beyond what the VAE's scaling gives.
    """

    noise: NoiseSpec
    timesteps: tuple[float, ...] = ()
    deviation: float = 1.0


def read_schedule(pipeline: Pipeline) -> Schedule:
    """What a scheduler's configuration says.

    Raises:
        ExportError: the noise schedule or the prediction type is of an unknown kind.
    """
    config = pipeline.config("scheduler", "scheduler_config.json")
    kind = config.get("prediction_type", "epsilon")
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch"):
        raise ExportError(
            f"the scheduler is {name}, for models of flow; expected one of diffusion, as Stable "
            "Diffusion 1.x, 2.x and XL have"
        )
    if kind not in _PREDICTED:
        raise ExportError(
            f"the scheduler's prediction_type is {kind!r}; expected one of "
            f"{', '.join(_PREDICTED)} (Stable Diffusion 1.x, 2.x or XL)"
        )
    with refusing("the scheduler's noise schedule is unknown"):
        if "sigma_data" in config:
            return _karras(config, kind)
        betas = diffusers.DDPMScheduler.from_config(config).betas.double()
        levels = tuple(torch.cumprod(1.0 - betas, 0).tolist())
        return Schedule(NoiseSpec("diffusion", levels, kind))


def _karras(config: dict[str, float], kind: str) -> Schedule:
    """The noise of EDM (arXiv 2206.00364, Table 1 and Eq. 5): x + σ ε of latents with deviation
    σ_d, brought to variance 1 by 1/√(σ² + σ_d²), which is √ᾱ x/σ_d + √(1 − ᾱ) ε with
    ᾱ = σ_d²/(σ² + σ_d²); the network is told ln(σ)/4."""
    count, power = int(config["num_train_timesteps"]), 1 / config["rho"]
    low, high = config["sigma_min"] ** power, config["sigma_max"] ** power
    places = [step / (count - 1) for step in range(count)]
    sigmas = [(low + place * (high - low)) ** config["rho"] for place in places]
    deviation = float(config["sigma_data"])
    levels = tuple(deviation**2 / (sigma**2 + deviation**2) for sigma in sigmas)
    timesteps = tuple(math.log(sigma) / 4 for sigma in sigmas)
    return Schedule(NoiseSpec("diffusion", levels, kind), timesteps, deviation)
