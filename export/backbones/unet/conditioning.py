"""What a UNet takes beside a noisy latent and a timestep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....runtime.bundle.contract import (
    ENCODER_HIDDEN_STATES,
    LatentSpec,
    TextSpec,
    pooled_name,
    states_name,
)
from ....runtime.errors import ExportError
from .probe import SIZES, Structure


@dataclass(frozen=True)
class Conditioning:
    """What a UNet takes beside a noisy latent and a timestep.

    Attributes:
        channels: of the latent.
        further: channels of the UNet's sample behind those: of a picture to be inpainted or
            edited, zeros here.
        factor: pixels a cell.
        texts: the network's inputs for texts → the shape of a row of each.
        sized: whether it takes pooled texts, and sizes of the picture and of a crop of it.
        timesteps: what the UNet is told at each level of noise; empty for the level's number.
    """

    channels: int
    further: int
    factor: int
    texts: Mapping[str, tuple[int, ...]]
    sized: bool
    timesteps: tuple[float, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """The inputs that hold a vector a token; they are joined along channels."""
        return tuple(name for name in self.texts if name.startswith(ENCODER_HIDDEN_STATES))

    @property
    def pooled(self) -> tuple[str, ...]:
        """The inputs that hold a vector a prompt."""
        return tuple(name for name in self.texts if name not in self.states)


def conditioning(
    structure: Structure,
    config: Any,
    latent: LatentSpec,
    texts: Sequence[TextSpec],
    timesteps: tuple[float, ...] = (),
) -> Conditioning:
    """What a UNet takes, of a VAE's latents and of text encoders.

    Raises:
        ExportError: they do not fit it.
    """
    further = structure.channels - latent.channels
    # a mask and a masked picture's latent, or the latent of a picture to edit
    if further not in (0, latent.channels, latent.channels + 1):
        raise ExportError(
            f"the UNet takes {structure.channels} channels, the VAE gives {latent.channels}; "
            f"expected the same, or {2 * latent.channels} or {2 * latent.channels + 1} as models "
            "that edit or inpaint (models that see depth or a smaller picture cannot be exported)"
        )
    widths = [text.hidden for text in texts]
    if sum(widths) != structure.width:
        found = " + ".join(map(str, widths))
        raise ExportError(
            f"the text encoder{'s are' if len(texts) > 1 else ' is'} {found} wide, the UNet's "
            f"cross-attention takes {structure.width}; expected the same"
        )
    inputs: dict[str, tuple[int, ...]] = {}
    for index, text in enumerate(texts):
        inputs[states_name(index)] = (text.tokens.max_length, text.hidden)
    for index, text in enumerate(texts):
        if text.pooled:
            inputs[pooled_name(index)] = (text.pooled,)
    sized = config.get("addition_embed_type") == "text_time"
    if sized:
        pooled = sum(text.pooled for text in texts)
        taken = config["projection_class_embeddings_input_dim"]
        if taken != pooled + SIZES * config["addition_time_embed_dim"]:
            raise ExportError(
                f"the UNet takes {taken} values of a pooled text and sizes, expected {pooled} of "
                f"its text encoders and {SIZES} sizes of {config['addition_time_embed_dim']} each "
                "(a refiner, which takes an aesthetic score, cannot be exported: export its base)"
            )
    return Conditioning(latent.channels, further, latent.factor, inputs, sized, timesteps)
