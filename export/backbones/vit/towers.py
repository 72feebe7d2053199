"""Vision transformers as graphs: wrappers around transformers' own models, traced.

A tower's patches are given out as maps, (batch, channels, H/patch, W/patch) float32. Pictures may
have any sides that are multiples of the patch: transformers resizes the position embeddings
bicubically, and where its code would freeze the size it was traced at, `resized_positions` stands
in for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

GEM_BLOCKS: Final = 6
"""The last blocks that GEM's second stream runs along: the published depth of 7, less one."""
GEM_ITERATIONS: Final = 1
"""How often tokens are drawn to their like before values are read by them: as published."""


class DinoTower(nn.Module):  # type: ignore[misc]
    """image (batch, 3, H, W), normalised → patch tokens after the final LayerNorm.

    The class token and registers, which come before the patches, are left out.
    """

    def __init__(self, model: Any, patch: int, prefix: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.patch, self.prefix, self.dtype = model, patch, prefix, dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.model(image.to(self.dtype)).last_hidden_state
        return as_map(tokens[:, self.prefix :], image, self.patch)


class ClipTower(nn.Module):  # type: ignore[misc]
    """image (batch, 3, H, W), normalised → patch tokens of the last block; MaskCLIP's and GEM's in
    the space of text embeddings, each of length 1; and MaskCLIP's keys, each of length 1."""

    def __init__(self, model: Any, patch: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.vision, self.projection = model.vision_model, model.visual_projection
        self.patch, self.dtype = patch, dtype

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        blocks, inputs = self.vision.encoder.layers, []

        def keep(_block: Any, args: tuple[Any, ...]) -> None:
            inputs.append(args[0])

        hooks = [block.register_forward_pre_hook(keep) for block in blocks]
        try:
            tokens = self.vision(
                image.to(self.dtype), interpolate_pos_encoding=True
            ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        values, keys = last_values_and_keys(blocks[-1], inputs[-1])
        along = list(zip(blocks, inputs, strict=True))[-GEM_BLOCKS:]
        stream = along[0][1]
        for block, x in along:
            stream = stream + self_self_attention(block.self_attn, block.layer_norm1(x))
        found = (tokens.float(), self._projected(values), unit(keys), self._projected(stream))
        return tuple(as_map(each[:, 1:], image, self.patch) for each in found)

    def _projected(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens in the space of text embeddings, of length 1."""
        return unit(self.projection(self.vision.post_layernorm(tokens)))


class ClipText(nn.Module):  # type: ignore[misc]
    """input_ids (batch, tokens) int64 → encoder_hidden_states (batch, tokens, hidden) and pooled
    (batch, embedding), CLIP's text embedding; float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.projection = model.text_model, model.text_projection

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.text(input_ids)
        return found.last_hidden_state.float(), self.projection(found.pooler_output).float()


def last_values_and_keys(block: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """MaskCLIP's reading of a block: what it gives where every token attends to itself alone, with
    its own residual and MLP; and its keys after the output projection."""
    y, attention = block.layer_norm1(x), block.self_attn
    values = x + attention.out_proj(attention.v_proj(y))
    values = values + block.mlp(block.layer_norm2(values))
    return values, attention.out_proj(attention.k_proj(y))


def self_self_attention(attention: Any, y: torch.Tensor) -> torch.Tensor:
    """GEM's: values, read by what is alike among values, keys and queries each, the mean of the
    three, through the output projection; of y (batch, tokens, D)."""
    heads = attention.num_heads
    values, *others = (
        project(y).unflatten(2, (heads, -1)).transpose(1, 2)
        for project in (attention.v_proj, attention.k_proj, attention.q_proj)
    )
    sharpness = y.float().norm(dim=-1).mean(dim=1)[:, None, None, None] * attention.scale
    given = torch.zeros_like(values)
    for tokens in (values, *others):
        drawn = tokens
        for _ in range(GEM_ITERATIONS):
            drawn = _drawn(drawn, sharpness, None)
        given = given + _drawn(drawn, sharpness, values)
    return attention.out_proj((given / 3).transpose(1, 2).flatten(2))


def _drawn(
    tokens: torch.Tensor, sharpness: torch.Tensor, values: torch.Tensor | None
) -> torch.Tensor:
    """softmax(s sᵀ · sharpness) of tokens of length 1, times values, or those tokens themselves."""
    s = unit(tokens)
    shares = torch.softmax(s @ s.transpose(-1, -2) * sharpness, dim=-1)
    mixed = shares @ (s if values is None else values.float())
    return mixed.to(tokens.dtype)


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """(…, D) float32, each of length 1."""
    return functional.normalize(tokens.float(), dim=-1)


def as_map(tokens: torch.Tensor, image: torch.Tensor, patch: int) -> torch.Tensor:
    """(batch, channels, H/patch, W/patch) float32 of (batch, patches, channels)."""
    grid = (image.shape[2] // patch, image.shape[3] // patch)
    return tokens.float().transpose(1, 2).unflatten(2, grid)


@contextmanager
def resized_positions(embeddings: Any, patch: int) -> Iterator[None]:
    """Resize position embeddings as DINOv2 with registers does, without its Python integers.

    Args:
        embeddings: the model's, with `position_embeddings` (1, 1 + n², D).
        patch: pixels a side.
    """
    embeddings.interpolate_pos_encoding = partial(
        _antialiased, embeddings.position_embeddings, patch
    )
    try:
        yield
    finally:
        del embeddings.interpolate_pos_encoding


def _antialiased(
    table: torch.Tensor, patch: int, _tokens: torch.Tensor, height: Any, width: Any
) -> torch.Tensor:
    own, patches = table[:, :1], table[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    size = (height // patch, width // patch)
    resized = functional.interpolate(square, size, mode="bicubic", antialias=True)
    return torch.cat([own, resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
