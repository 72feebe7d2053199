"""An attention processor that hands out its logits and keeps its softmax in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Observe = Callable[[torch.Tensor], None]


class Float32SoftmaxProcessor:
    """Scaled dot-product attention with an explicit softmax, for diffusers' `Attention`.

    Computes softmax(QKᵀ/√d)·V. The softmax is float32 whatever the layer's
    precision. With `observe`, QKᵀ/√d is passed to it as (batch, heads, pixels,
    tokens), computed in float32 from the layer's own queries and keys; with
    `queries`, Q/√d as (batch, heads, pixels, d).
    """

    def __init__(self, observe: Observe | None = None, queries: Observe | None = None) -> None:
        self._observe, self._queries = observe, queries

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        grid = hidden_states.shape[2:] if hidden_states.ndim == 4 else None
        if grid is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key = _keys(attn, context)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.upcast_attention:
            query, key = query.float(), key.float()
        if self._queries is not None:
            self._queries(query.float() * attn.scale)
        logits = _product(query, key, attn.scale)
        if self._observe is not None:
            # A second product where the layer computes in half: TensorRT makes one kernel of such
            # a layer, and of none whose own QKᵀ is float32, as logits that are returned must be.
            wide = query.dtype is torch.float32
            self._observe(logits if wide else _product(query.float(), key.float(), attn.scale))
        if attention_mask is not None:
            logits = logits + attention_mask.float()

        value = split_heads(attn.to_v(context), attn.heads)
        probabilities = logits.softmax(dim=-1)
        mixed = probabilities.to(value.dtype) @ value
        hidden_states = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        if grid is not None:
            hidden_states = hidden_states.transpose(1, 2).unflatten(2, grid)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor


class JointProcessor:
    """Joint attention of a picture's pixels and words, for diffusers' `Attention` with further
    projections for words, as Stable Diffusion 3 has it.

    The softmax is float32 whatever the layer's precision. With `observe`, log softmax(QKᵀ/√d) over
    all keys, of the picture's rows and the first `words` words' columns, is passed to it as (batch,
    heads, pixels, words) float32. It is QKᵀ/√d less a pixel's log Σ exp, so nothing of the size of
    all pairs of pixels leaves the layer.
    """

    def __init__(self, words: int = 0, observe: Observe | None = None) -> None:
        self._words, self._observe = words, observe

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, tokens = hidden_states.shape[1], encoder_hidden_states.shape[1]
        query, key, value = (
            torch.cat(
                [_normed(attn, own, hidden_states), _normed(attn, added, encoder_hidden_states)],
                dim=2,
            )
            for own, added in (
                (("to_q", "norm_q"), ("add_q_proj", "norm_added_q")),
                (("to_k", "norm_k"), ("add_k_proj", "norm_added_k")),
                (("to_v", None), ("add_v_proj", None)),
            )
        )
        if self._observe is not None:
            query, key = query.float(), key.float()
        logits = _product(query, key, attn.scale)
        probabilities = logits.softmax(dim=-1)
        if self._observe is not None:
            of_picture = logits.narrow(2, 0, pixels)
            # log Σ exp = max − log of the largest probability, which is at least 1 / keys
            largest = probabilities.narrow(2, 0, pixels).amax(dim=-1, keepdim=True)
            total = of_picture.amax(dim=-1, keepdim=True) - largest.log()
            self._observe(of_picture.narrow(3, pixels, self._words) - total)
        mixed = (probabilities.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        picture, words = mixed.narrow(1, 0, pixels), mixed.narrow(1, pixels, tokens)
        if not attn.context_pre_only:
            words = attn.to_add_out(words)
        return attn.to_out[0](picture), words


def _normed(attn: Any, names: tuple[str, str | None], states: torch.Tensor) -> torch.Tensor:
    """A projection by heads, and its norm where the layer has one."""
    projection, norm = names
    apart = split_heads(getattr(attn, projection)(states), attn.heads)
    layer = None if norm is None else getattr(attn, norm)
    return apart if layer is None else layer(apart)


def text_keys(attn: Any, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
    """K of a cross-attention layer, (batch, heads, tokens, d), of text embeddings (batch, tokens,
    width)."""
    return _keys(attn, _context(attn, encoder_hidden_states))


def text_values(attn: Any, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
    """V W of a cross-attention layer, (batch, heads, tokens, D), of text embeddings (batch, tokens,
    width): each head's values through its columns of the output projection, without bias."""
    value = split_heads(attn.to_v(_context(attn, encoder_hidden_states)), attn.heads)
    # (D, heads · d) → (heads, d, D)
    projection = attn.to_out[0].weight.unflatten(1, (attn.heads, -1)).permute(1, 2, 0)
    return value @ projection


def _context(attn: Any, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
    """What a layer's keys and values are projected from."""
    if attn.norm_cross:
        return attn.norm_encoder_hidden_states(encoder_hidden_states)
    return encoder_hidden_states


def _keys(attn: Any, context: torch.Tensor) -> torch.Tensor:
    key = split_heads(attn.to_k(context), attn.heads)
    return key if attn.norm_k is None else attn.norm_k(key)


def _product(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """QKᵀ/√d as float32; scaled first: a half-precision QKᵀ of SD 2.x overflows before it."""
    return ((query * scale) @ key.transpose(-1, -2)).float()


def split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, positions, heads · d) → (batch, heads, positions, d)."""
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)
