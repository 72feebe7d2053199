"""Attention probabilities of every head, naively (Vaswani et al. 2017; layers as in diffusers)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scaling import softmax

Floats = NDArray[np.float64]


def head_maps(q: Floats, k: Floats) -> Floats:
    """softmax(QKᵀ/√d) of `q` (heads, N, d) and `k` (heads, M, d): (heads, N, M), rows sum to 1."""
    heads, queries, d = q.shape
    maps = np.zeros((heads, queries, k.shape[1]))
    for h in range(heads):
        maps[h] = softmax(q[h] @ k[h].T / np.sqrt(d))
    return maps


def mean_map(layers: list[Floats]) -> Floats:
    """Mean of all heads of all `layers`, each (heads, N, M): (N, M)."""
    every_head = np.concatenate(layers, axis=0)
    mean: Floats = every_head.mean(axis=0)
    return mean
