"""GEM (Bousselham et al., CVPR 2024, arXiv 2312.00878): self-self attention beside CLIP's own."""

from __future__ import annotations

import numpy as np

from .scaling import softmax
from .vit import Floats, Weights, clip_block, clip_tokens, heads_of, linear, normed, unit

DEPTH = 7  # the last depth − 1 blocks


def features(
    w: Weights,
    image: Floats,
    patch: int,
    heads: int,
    blocks: int,
    epsilon: float,
    depth: int = DEPTH,
    iterations: int = 1,
) -> Floats:
    """Patches of `image` (3, H, W), normalised, in the space of text embeddings: (patches, E) of
    length 1."""
    x = clip_tokens(w, image, patch, epsilon)
    g = x
    for i in range(blocks):
        block = f"vision_model.encoder.layers.{i}"
        if i < blocks - (depth - 1):
            x = g = clip_block(w, block, x, heads, epsilon)
            continue
        y = normed(w, f"{block}.layer_norm1", x, epsilon)
        g = g + self_self_attention(w, f"{block}.self_attn", y, heads, iterations)
        x = clip_block(w, block, x, heads, epsilon)
    projected = linear(w, "visual_projection", normed(w, "vision_model.post_layernorm", g, epsilon))
    return unit(projected)[1:]


def self_self_attention(
    w: Weights, name: str, y: Floats, heads: int, iterations: int = 1
) -> Floats:
    """Of queries among themselves, keys and values likewise, the mean of the three: (N, D)."""
    by_head = {part: heads_of(linear(w, f"{name}.{part}_proj", y), heads) for part in "qkv"}
    width = by_head["v"][0].shape[1]
    sharpness = np.sqrt((y**2).sum(axis=1)).mean() / np.sqrt(width)
    given = []
    for head in range(heads):
        values, total = by_head["v"][head], np.zeros_like(by_head["v"][head])
        for part in "vkq":
            s = by_head[part][head]
            for _ in range(iterations):
                s = unit(s)
                s = softmax(s @ s.T * sharpness) @ s
            s = unit(s)
            total += softmax(s @ s.T * sharpness) @ values
        given.append(total / 3)
    return linear(w, f"{name}.out_proj", np.concatenate(given, axis=1))
