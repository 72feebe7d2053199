"""The modules that are traced: a UNet and its words' layers, with the contract's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ....runtime.bundle import contract
from ...attention import text_keys, text_values
from ...graphs import BATCH, CELLS, Graph, batch_axis, spatial_axes
from .capture import Capture
from .conditioning import Conditioning
from .probe import NETWORK, Selection

OfWords = Callable[[Any, torch.Tensor], torch.Tensor]


class CutUNet(nn.Module):  # type: ignore[misc]
    """sample, timestep, texts → the captured tensors, all float32."""

    def __init__(
        self, unet: Any, captured: Capture, dtype: torch.dtype, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.unet = unet
        self.captured = captured
        self.dtype = dtype
        self.conditioning = conditioning
        self.register_buffer("timesteps", torch.tensor(conditioning.timesteps), persistent=False)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_2: torch.Tensor | None = None,
        pooled_2: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        states = joined(encoder_hidden_states, encoder_hidden_states_2).to(self.dtype)
        if len(self.timesteps):
            timestep = self.timesteps[timestep]
        added = {}
        if self.conditioning.sized:
            assert pooled_2 is not None
            added = {
                "text_embeds": pooled_2.to(self.dtype),
                "time_ids": self._sizes(sample).to(self.dtype),
            }
        sample = sample.to(self.dtype)
        if self.conditioning.further:
            further = torch.zeros_like(sample[:, :1]).repeat(1, self.conditioning.further, 1, 1)
            sample = torch.cat([sample, further], dim=1)
        return self.captured.run(sample, timestep, states, added_cond_kwargs=added)

    def _sizes(self, sample: torch.Tensor) -> torch.Tensor:
        """(batch, 6) float32: the picture's height and width, a crop at its top left, and that
        crop's, the whole of it."""
        ones = torch.ones_like(sample[:, 0])
        # a symbolic size is no tensor; counting cells makes one
        height, width = (
            ones.select(3 - axis, 0).sum(dim=1) * self.conditioning.factor for axis in (1, 2)
        )
        nothing = torch.zeros_like(height)
        return torch.stack([height, width, nothing, nothing, height, width], dim=1)


class OfTexts(nn.Module):  # type: ignore[misc]
    """Hidden states of the texts → what each selected cross-attention layer makes of them, all
    float32."""

    def __init__(
        self, unet: Any, selection: Selection, dtype: torch.dtype, of_words: OfWords
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(unet.get_submodule(a.layer) for a in selection.attention)
        self.dtype = dtype
        self.of_words = of_words

    def forward(
        self,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_2: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        states = joined(encoder_hidden_states, encoder_hidden_states_2).to(self.dtype)
        return tuple(self.of_words(layer, states).float() for layer in self.layers)


def joined(first: torch.Tensor, second: torch.Tensor | None) -> torch.Tensor:
    """The hidden states of one text encoder or of two, side by side."""
    return first if second is None else torch.cat([first, second], dim=-1)


def unet_graph(
    unet: Any,
    captured: Capture,
    dtype: torch.dtype,
    down_factor: int,
    selection: Selection,
    conditioning: Conditioning,
) -> Graph:
    """The UNet, cut; latent sides are multiples of `down_factor`."""
    h, w = (cells * down_factor for cells in CELLS)
    spatial = spatial_axes(down_factor)
    maps = (*selection.features, *selection.encoder)
    by_pixel = [name for a in selection.attention for name in (a.name, a.queries)]
    by_pixel += [name for a in selection.self_attention for name in (a.queries, a.keys)]
    axes: dict[str, tuple[int, ...]] = {f.name: (0, 2, 3) for f in maps}
    axes |= dict.fromkeys(by_pixel, (0, 2))
    texts = {name: torch.zeros(BATCH, *shape) for name, shape in conditioning.texts.items()}
    return Graph(
        NETWORK,
        CutUNet(unet, captured, dtype, conditioning),
        {
            contract.SAMPLE: torch.zeros(BATCH, conditioning.channels, h, w),
            contract.TIMESTEP: torch.zeros(BATCH, dtype=torch.int64),
            **texts,
        },
        {
            contract.SAMPLE: spatial,
            **{name: {0: spatial[0]} for name in (contract.TIMESTEP, *texts)},
        },
        {name: axes[name] for name in selection.names},
        shared=True,
    )


def keys_graph(
    unet: Any, dtype: torch.dtype, selection: Selection, conditioning: Conditioning
) -> Graph:
    """What brings texts to the keys of the selected cross-attention layers."""
    names = [a.keys for a in selection.attention]
    return _words_graph(
        contract.KEYS, OfTexts(unet, selection, dtype, text_keys), names, conditioning
    )


def values_graph(
    unet: Any, dtype: torch.dtype, selection: Selection, conditioning: Conditioning
) -> Graph:
    """What brings texts to the values of the selected cross-attention layers."""
    names = [a.values for a in selection.attention]
    return _words_graph(
        contract.VALUES, OfTexts(unet, selection, dtype, text_values), names, conditioning
    )


def _words_graph(
    filename: str, module: OfTexts, names: list[str], conditioning: Conditioning
) -> Graph:
    rows = batch_axis()
    return Graph(
        filename,
        module,
        {name: torch.zeros(BATCH, *conditioning.texts[name]) for name in conditioning.states},
        {name: {0: rows} for name in conditioning.states},
        dict.fromkeys(names, (0,)),
    )
