"""UNets that a text drives through cross-attention: Stable Diffusion 1, 2 and XL, and theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import diffusers
import torch

from ....runtime.bundle import contract
from ....runtime.errors import ExportError
from ...components import Pipeline
from ...graphs import Graph
from ...options import ExportOptions
from ...proof import Case, Example
from ...text_encoders import text_parts
from ..base import TextPart
from ..latents import latent_spec
from ..noise import read_schedule
from .capture import capture
from .conditioning import conditioning
from .examples import unet_examples, words_examples
from .probe import Structure, context_width, probe, select
from .wrapper import keys_graph, unet_graph, values_graph

_DEFAULT_CELLS: Final = 64  # diffusers' own default of an unset unet.config.sample_size


class UNet:
    """A pipeline around a `UNet2DConditionModel`, found and checked; its parts are loaded when
    they are asked for."""

    recommended: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, pipeline: Pipeline, options: ExportOptions) -> None:
        """Walk the UNet on the meta device.

        Raises:
            ExportError: it needs what a picture and a prompt cannot give, its parts do not fit
                each other, or a stride does not exist.
        """
        self.pipeline, self.model_id = pipeline, pipeline.model_id
        config = pipeline.config("unet")
        self.structure: Structure = probe(config)
        schedule = read_schedule(pipeline)
        self.noise = schedule.noise
        self.latent = latent_spec(pipeline, schedule.deviation)
        self.selection = select(
            self.structure,
            self.latent.factor,
            options.feature_strides,
            options.attention_strides,
            options.self_attention_strides,
        )
        self.texts: Sequence[TextPart] = text_parts(pipeline, pooled=_takes_pooled(config))
        specs = [text.spec for text in self.texts]
        self.conditioning = conditioning(
            self.structure, config, self.latent, specs, schedule.timesteps
        )
        cells = _native_cells(config, self.structure.down_factor)
        self.image = _image(
            cells * self.latent.factor, self.latent.factor * self.structure.down_factor
        )

    def vae(self) -> Any:
        """The VAE."""
        return self.pipeline.vae()

    def network(self) -> Any:
        """The whole UNet."""
        return self.pipeline.load("unet", diffusers.UNet2DConditionModel)

    def examples(self, network: Any, cases: Sequence[Case]) -> dict[str, list[Example]]:
        """What PyTorch says of every graph that `graphs` gives."""
        levels = len(self.noise.levels)
        of_words = words_examples(network, self.selection, self.conditioning, cases)
        whole = unet_examples(network, self.selection, self.conditioning, levels, cases)
        return {self.selection.network: whole, **of_words}

    @contextmanager
    def graphs(self, network: Any, dtype: torch.dtype) -> Iterator[Sequence[Callable[[], Graph]]]:
        """The UNet up to the last selected tensor, then what its layers make of words."""
        own = self.selection, self.conditioning
        with capture(network, self.selection) as captured:
            yield (
                lambda: unet_graph(network, captured, dtype, self.structure.down_factor, *own),
                lambda: keys_graph(network, dtype, *own),
                lambda: values_graph(network, dtype, *own),
            )


def _takes_pooled(config: dict[str, Any]) -> bool:
    return config.get("addition_embed_type") == "text_time"


def _image(native_size: int, size_multiple: int) -> contract.ImageSpec:
    """RGB from -1 to 1, as every VAE of theirs takes it."""
    if native_size > contract.MOST_PIXELS:
        raise ExportError(
            f"the UNet's sample_size stands for pictures of {native_size} pixels a side, expected "
            f"at most {contract.MOST_PIXELS}; check unet/config.json"
        )
    return contract.ImageSpec((0.5,) * 3, (0.5,) * 3, native_size, size_multiple)


def _native_cells(config: dict[str, Any], multiple: int) -> int:
    """The latent side the UNet was trained on, as a multiple of what it can take."""
    size = config.get("sample_size") or _DEFAULT_CELLS
    sides = size if isinstance(size, list) else [size]
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise ExportError(
            f"the UNet's sample_size is {size!r}, expected latent cells a side, as 64"
        )
    cells = max(sides)
    return max(multiple, cells - cells % multiple)


__all__ = ["UNet", "context_width"]
