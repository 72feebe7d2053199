"""MaskCLIP (Zhou et al., ECCV 2022, arXiv 2112.01071): the value path of CLIP's last block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scaling import softmax
from .vit import Floats, Weights, clip_block, clip_mlp, clip_tokens, linear, normed, unit

SHARPNESS = 100.0  # what cosines are multiplied with before a softmax: CLIP's own


def features(
    w: Weights, image: Floats, patch: int, heads: int, blocks: int, epsilon: float
) -> tuple[Floats, Floats]:
    """Of `image` (3, H, W), normalised: patches in the space of text embeddings, (patches, E) of
    length 1, and the last block's keys after its output projection, (patches, D)."""
    x = clip_tokens(w, image, patch, epsilon)
    for i in range(blocks - 1):
        x = clip_block(w, f"vision_model.encoder.layers.{i}", x, heads, epsilon)
    last = f"vision_model.encoder.layers.{blocks - 1}"
    y = normed(w, f"{last}.layer_norm1", x, epsilon)
    v, k = (
        linear(w, f"{last}.self_attn.out_proj", linear(w, f"{last}.self_attn.{part}_proj", y))
        for part in "vk"
    )
    v = v + x
    v = v + clip_mlp(w, last, v, epsilon)
    projected = linear(w, "visual_projection", normed(w, "vision_model.post_layernorm", v, epsilon))
    return unit(projected)[1:], k[1:]


def class_embeddings(by_template: Floats) -> Floats:
    """(K, E) of length 1, the mean over templates of `by_template` (K, templates, E)."""
    return unit(unit(by_template).mean(axis=1))


def dropped(scores: Floats, least: float) -> NDArray[np.bool_]:
    """Prompt denoising: which classes (K,) reach the probability `least` at no patch, of cosines
    `scores` (patches, K)."""
    missing: NDArray[np.bool_] = softmax(SHARPNESS * scores).max(axis=0) < least
    return missing


def smoothed(scores: Floats, keys: Floats, below: float) -> Floats:
    """Key smoothing of cosines (patches, K): probabilities, and where the largest is less than
    `below` those of all patches, each by the cosine of its key to this one's."""
    probabilities = softmax(SHARPNESS * scores)
    k = unit(keys)
    mixed = (k @ k.T) @ probabilities
    unsure = probabilities.max(axis=1) < below
    return np.where(unsure[:, None], mixed, probabilities)
