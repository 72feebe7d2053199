"""Features in the space of text embeddings: scores of names, and how MaskCLIP cleans them
(Zhou et al., ECCV 2022, arXiv 2112.01071, §3.3)."""

from __future__ import annotations

from typing import Final

from .grid import Array, array_module

SHARPNESS: Final = 100.0
"""What cosines are multiplied with before a softmax over classes: what CLIP was trained to."""


def cosines(features: Array, names: Array) -> Array:
    """(classes, h, w) float32: features (d, h, w) by names (classes, d), all of length 1; where
    tiles overlap, features are means of unit vectors, and so these are means of cosines."""
    found: Array = (names @ features.reshape(len(features), -1)).astype("float32")
    return found.reshape(-1, *features.shape[1:])


def unlikely(scores: Array, least: float) -> Array:
    """(classes,) bool, prompt denoising: classes of cosines (classes, h, w) whose probability
    reaches `least` in no cell; none if all would be."""
    out: Array = _probabilities(scores).max(axis=(1, 2)) < least
    kept: Array = out & ~out.all()
    return kept


def smoothed(scores: Array, keys: Array, below: float, absent: Array | None = None) -> Array:
    """Key smoothing: class probabilities (classes, h, w) float32; a cell where the largest is less
    than `below` takes those of all cells instead, weighted by how alike their keys are.

    K̂K̂ᵀP is computed as K̂(K̂ᵀP), so that no map of all cells by all cells is held.

    Args:
        scores: cosines, (classes, h, w).
        keys: (d, h, w), of any length.
        below: in (0, 1].
        absent: (classes,) bool, classes that have no probability anywhere.
    """
    xp = array_module(scores)
    if absent is not None:
        scores = xp.where(absent[:, None, None], -SHARPNESS, scores)
    own = _probabilities(scores)
    flat, k = own.reshape(len(own), -1), keys.reshape(len(keys), -1)
    k = k / xp.maximum(xp.sqrt((k * k).sum(axis=0, keepdims=True)), 1e-12)
    mixed = ((flat @ k.T) @ k).reshape(own.shape)
    chosen: Array = xp.where(own.max(axis=0) < below, mixed, own).astype("float32")
    return chosen


def _probabilities(scores: Array) -> Array:
    """Softmax over the classes of cosines (classes, h, w)."""
    xp = array_module(scores)
    exponentials = xp.exp(SHARPNESS * (scores - scores.max(axis=0)))
    shares: Array = exponentials / exponentials.sum(axis=0)
    return shares
