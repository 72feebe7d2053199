"""What a vision transformer answers by its own forward pass, for the proof of its graphs.

MaskCLIP's value path is the last block under a mask that lets every token see itself alone; GEM is
torch's own attention, a picture and a kind of tokens at a time. Neither knows of `towers`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .towers import GEM_BLOCKS, GEM_ITERATIONS


def dino_answers(model: Any, prefix: int, image: torch.Tensor) -> torch.Tensor:
    """Patch tokens of `image` (batch, 3, H, W), behind `prefix` others: (batch, patches, D)."""
    with torch.no_grad():
        return model(image).last_hidden_state[:, prefix:]


def clip_answers(model: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of patches: tokens of the last block (batch, patches, D), MaskCLIP's in the space of text
    embeddings, its keys, and GEM's; all but the first of length 1."""
    vision = model.vision_model
    with torch.no_grad():
        found = vision(image, interpolate_pos_encoding=True, output_hidden_states=True)
        states, last = found.hidden_states, vision.encoder.layers[-1]
        count = states[0].shape[1]
        itself = torch.full((count, count), -torch.inf).fill_diagonal_(0)[None, None]
        values = _first(last(states[-2], itself))
        keys = last.self_attn.out_proj(last.self_attn.k_proj(last.layer_norm1(states[-2])))
        stream = states[-1 - min(GEM_BLOCKS, len(states) - 1)]
        for block, x in list(zip(vision.encoder.layers, states, strict=False))[-GEM_BLOCKS:]:
            stream = stream + _self_self(block.self_attn, block.layer_norm1(x))
        embedded = (model.visual_projection(vision.post_layernorm(x)) for x in (values, stream))
        maskclip, gem = (functional.normalize(each, dim=-1) for each in embedded)
    every = (found.last_hidden_state, maskclip, functional.normalize(keys, dim=-1), gem)
    return tuple(each[:, 1:] for each in every)


def text_answers(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings and text embeddings of `ids` (batch, tokens)."""
    with torch.no_grad():
        found = model.text_model(ids)
        return found.last_hidden_state, model.text_projection(found.pooler_output)


def _self_self(attention: Any, y: torch.Tensor) -> torch.Tensor:
    """GEM's attention over y (batch, tokens, D)."""
    pictures = []
    for one in y:
        kinds = {
            part: getattr(attention, f"{part}_proj")(one)
            .unflatten(1, (attention.num_heads, -1))
            .transpose(0, 1)
            for part in "qkv"
        }
        scale = float(one.norm(dim=1).mean()) / kinds["v"].shape[2] ** 0.5
        read = functional.scaled_dot_product_attention
        total = torch.zeros_like(kinds["v"])
        for tokens in kinds.values():
            for _ in range(GEM_ITERATIONS):
                tokens = functional.normalize(tokens, dim=-1)
                tokens = read(tokens, tokens, tokens, scale=scale)
            tokens = functional.normalize(tokens, dim=-1)
            total += read(tokens, tokens, kinds["v"], scale=scale) / len(kinds)
        pictures.append(attention.out_proj(total.transpose(0, 1).flatten(1)))
    return torch.stack(pictures)


def _first(given: Any) -> torch.Tensor:
    """What a block gives; older transformers give it in a tuple."""
    return given[0] if isinstance(given, tuple) else given
