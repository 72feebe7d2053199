"""A vision transformer and CLIP's text transformer, naively, from their weights by name.

`weights` are transformers' own names → float64 arrays (`model.state_dict()`); no module of
transformers' takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import erf, isqrt

import numpy as np
from numpy.typing import NDArray

from .resizing import Size, bicubic
from .scaling import softmax

Floats = NDArray[np.float64]
Weights = Mapping[str, Floats]

gelu = np.vectorize(lambda x: x * (1 + erf(x / 2**0.5)) / 2)


def quick_gelu(x: Floats) -> Floats:
    """CLIP's own approximation."""
    gated: Floats = x / (1 + np.exp(-1.702 * x))
    return gated


def normed(w: Weights, name: str, x: Floats, epsilon: float) -> Floats:
    """Layer normalisation of `x` (N, D)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    shifted: Floats = scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
    return shifted


def linear(w: Weights, name: str, x: Floats) -> Floats:
    """`x` (N, D) through a linear layer with or without a bias."""
    bias = w.get(f"{name}.bias")
    product: Floats = x @ w[f"{name}.weight"].T
    return product if bias is None else product + bias


def heads_of(x: Floats, heads: int) -> list[Floats]:
    """`x` (N, D) head by head, (N, D / heads) each."""
    return np.split(x, heads, axis=1)


def attention(q: Floats, k: Floats, v: Floats, heads: int, causal: bool = False) -> Floats:
    """softmax(QKᵀ/√d) V, head beside head: (N, D); with `causal` nobody looks ahead."""
    given = []
    for query, key, value in zip(*(heads_of(x, heads) for x in (q, k, v)), strict=True):
        scores = query @ key.T / np.sqrt(query.shape[1])
        if causal:
            scores = np.where(np.tri(len(scores)) > 0, scores, -np.inf)
        given.append(softmax(scores) @ value)
    return np.concatenate(given, axis=1)


def patches(w: Weights, name: str, image: Floats, patch: int) -> Floats:
    """`image` (3, H, W) cut into patches and projected: (H/patch · W/patch, D), row by row."""
    kernel = w[f"{name}.weight"]
    flat = kernel.reshape(len(kernel), -1)
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    found = np.zeros((rows * columns, len(kernel)))
    for y in range(rows):
        for x in range(columns):
            piece = image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            found[y * columns + x] = flat @ piece.ravel()
    return found + w[f"{name}.bias"] if f"{name}.bias" in w else found


def placed(table: Floats, grid: Size) -> Floats:
    """Position embeddings `table` (1 + n², D) for a grid of another size: the first is the class
    token's, the others are a square resized bicubically."""
    side, width = isqrt(len(table) - 1), table.shape[1]
    square = table[1:].reshape(side, side, width).transpose(2, 0, 1)
    resized = bicubic(square, grid).transpose(1, 2, 0).reshape(-1, width)
    return np.concatenate([table[:1], resized])


def clip_tokens(w: Weights, image: Floats, patch: int, epsilon: float) -> Floats:
    """What goes into CLIP's first block, (1 + patches, D)."""
    name = "vision_model.embeddings"
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    own = patches(w, f"{name}.patch_embedding", image, patch)
    tokens = np.concatenate([w[f"{name}.class_embedding"][None], own])
    tokens = tokens + placed(w[f"{name}.position_embedding.weight"], grid)
    return normed(w, "vision_model.pre_layrnorm", tokens, epsilon)


def clip_block(
    w: Weights, block: str, x: Floats, heads: int, epsilon: float, causal: bool = False
) -> Floats:
    """One block of CLIP's, of either transformer."""
    y = normed(w, f"{block}.layer_norm1", x, epsilon)
    q, k, v = (linear(w, f"{block}.self_attn.{part}_proj", y) for part in "qkv")
    x = x + linear(w, f"{block}.self_attn.out_proj", attention(q, k, v, heads, causal))
    return x + clip_mlp(w, block, x, epsilon)


def clip_mlp(w: Weights, block: str, x: Floats, epsilon: float) -> Floats:
    """A block's second half, without what it is added to."""
    y = linear(w, f"{block}.mlp.fc1", normed(w, f"{block}.layer_norm2", x, epsilon))
    return linear(w, f"{block}.mlp.fc2", quick_gelu(y))


def clip_features(
    w: Weights, image: Floats, patch: int, heads: int, blocks: int, epsilon: float
) -> Floats:
    """Patch tokens after the last block, (patches, D)."""
    x = clip_tokens(w, image, patch, epsilon)
    for i in range(blocks):
        x = clip_block(w, f"vision_model.encoder.layers.{i}", x, heads, epsilon)
    return x[1:]


def clip_text(w: Weights, ids: list[int], end: int, heads: int, blocks: int, eps: float) -> Floats:
    """The text embedding (E,), of length 1, of `ids` up to and with the first `end`."""
    ids = ids[: ids.index(end) + 1]  # nobody looks ahead, so what follows has no say
    x = w["text_model.embeddings.token_embedding.weight"][ids]
    x = x + w["text_model.embeddings.position_embedding.weight"][: len(ids)]
    for i in range(blocks):
        x = clip_block(w, f"text_model.encoder.layers.{i}", x, heads, eps, causal=True)
    last = normed(w, "text_model.final_layer_norm", x, eps)[-1:]
    return unit(linear(w, "text_projection", last))[0]


def dino_features(
    w: Weights, image: Floats, patch: int, heads: int, blocks: int, epsilon: float
) -> Floats:
    """DINOv2's patch tokens after the final normalisation, (patches, D)."""
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    own = patches(w, "embeddings.patch_embeddings.projection", image, patch)
    x = np.concatenate([w["embeddings.cls_token"][0], own])
    x = x + placed(w["embeddings.position_embeddings"][0], grid)
    for i in range(blocks):
        block = f"encoder.layer.{i}"
        y = normed(w, f"{block}.norm1", x, epsilon)
        q, k, v = (linear(w, f"{block}.attention.{part}_proj", y) for part in "qkv")
        y = linear(w, f"{block}.attention.o_proj", attention(q, k, v, heads))
        x = x + y * w[f"{block}.layer_scale1.lambda1"]
        y = linear(w, f"{block}.mlp.fc1", normed(w, f"{block}.norm2", x, epsilon))
        y = linear(w, f"{block}.mlp.fc2", gelu(y))
        x = x + y * w[f"{block}.layer_scale2.lambda1"]
    return normed(w, "layernorm", x, epsilon)[1:]


def unit(x: Floats) -> Floats:
    """`x` (N, D), each row of length 1."""
    scaled: Floats = x / np.sqrt((x**2).sum(axis=-1, keepdims=True))
    return scaled
