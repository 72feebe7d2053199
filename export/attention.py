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
