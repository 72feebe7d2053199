"""GoCA (arXiv 2603.06178): which heads and which layers of the cross-attention to listen to.

A head weighs by its share in what its layer gives, pixel by pixel; a layer by how far the
self-attention beside it agrees with the affinity of the picture's own features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .attention import logits, token_softmax
from .grid import Array, array_module
from .refining import at_side
from .self_attention import Layer, mean_map

BLUR: Final = 5
SIGMA: Final = 0.3 * ((BLUR - 1) / 2 - 1) + 0.8
"""The Gaussian's cells a side and its width, torchvision's default for them: 1.1."""


def joined(queries: Array, keys: Array, values: Array, shared: Array) -> tuple[Array, Array]:
    """Probabilities and values of a class list's prompts, as of one prompt that holds them all.

    What every prompt has anew (begin, end, padding) counts as the mean over the prompts, as in
    `token_softmax`: rows sum to 1.

    Args:
        queries: of the pass that each prompt reads, over √d already, (prompts, heads, pixels, d)
            float32.
        keys: (prompts, heads, tokens, d) float32.
        values: through the output projection, (prompts, heads, tokens, D) float32.
        shared: (prompts, tokens) bool, where begin, end and padding are.

    Returns:
        P (heads, pixels, prompts · tokens) and V W (heads, prompts · tokens, D), float32.
    """
    xp = array_module(shared)
    seen = token_softmax([logits(q, k) for q, k in zip(queries, keys, strict=True)], shared)
    counts = xp.where(shared, 1 / len(seen), 1.0).astype("float32")
    probabilities = [one * count for one, count in zip(seen, counts, strict=True)]
    return xp.concatenate(probabilities, axis=2), xp.concatenate(list(values), axis=1)


def head_weights(probabilities: Array, values: Array) -> Array:
    """w_n = <r_n, R>/‖R‖² (heads, pixels) of r_n = P_n V_n W_n and their sum R; they sum to 1.

    A weight may be negative: of a head that speaks against the others. Where R is 0 all weigh the
    same. No r_n is held: <r_n, R> = Σ_t P_n(t) <V_n(t) W_n, R>.

    Args:
        probabilities: P, (heads, pixels, tokens) float32.
        values: V W, (heads, tokens, D) float32.
    """
    xp = array_module(probabilities)
    heads, pixels, tokens = probabilities.shape
    every = probabilities.transpose(1, 0, 2).reshape(pixels, heads * tokens)
    flat = values.reshape(heads * tokens, -1)
    products = every * ((every @ flat) @ flat.T)
    own = products.reshape(pixels, heads, tokens).sum(axis=2).T
    whole = own.sum(axis=0)  # ‖R‖²
    return xp.where(whole > 0, own / xp.where(whole > 0, whole, 1), 1 / heads)  # type: ignore[no-any-return]


def layer_map(probabilities: Array, weights: Array) -> Array:
    """C_l = Σ_n w_n P_n of (heads, pixels, tokens) and (heads, pixels): (tokens, pixels)."""
    return (weights[:, :, None] * probabilities).sum(axis=0).T  # type: ignore[no-any-return]


def layer_weights(queries: Array, layers: Sequence[Layer | None]) -> Array:
    """What layers weigh, (layers,) float32, none below 0, their sum 1.

    A weight is Σ G ∘ S_l: of G = softmax(F Fᵀ/√D), F a cross-attention's queries with all heads
    side by side, and S_l, the mean self-attention beside a layer at G's grid. A layer of which
    there is none weighs as the others do in the mean; if no weight is above 0, all weigh alike.

    Args:
        queries: of the layer of reference, over √d already, (heads, pixels, d) float32.
        layers: self-attention's Q/√d and K beside each layer, None where there is none.
    """
    xp = array_module(queries)
    heads, pixels, d = queries.shape
    # one head as wide as all: F Fᵀ/√D = d/√D · Q Qᵀ of queries that √d has divided
    wide = queries.transpose(1, 0, 2).reshape(1, pixels, heads * d)
    affinity = mean_map([(wide * (d / math.sqrt(heads * d)), wide)])
    side = math.isqrt(pixels)
    known = [(affinity * resized_map(layer, side)).sum() for layer in layers if layer is not None]
    if not known:
        return xp.full(len(layers), 1 / len(layers), dtype="float32")  # type: ignore[no-any-return]
    mean, found = sum(known) / len(known), iter(known)
    weights = xp.stack([mean if layer is None else next(found) for layer in layers])
    weights = xp.maximum(weights, 0)
    total = weights.sum()
    return xp.where(total > 0, weights / xp.where(total > 0, total, 1), 1 / len(layers))  # type: ignore[no-any-return]


def resized_map(layer: Layer, side: int) -> Array:
    """A layer's S at another grid, (side², side²): keys resized bilinearly, queries repeated or
    left out. Rows do not sum to 1 again, as in the published code."""
    queries, keys = layer
    own = math.isqrt(keys.shape[1])
    places = np.arange(side) * own // side
    rows = mean_map([(queries[:, (places[:, None] * own + places).ravel()], keys)])
    return at_side(rows.reshape(-1, own, own), side).reshape(side * side, side * side)


def rescaled(tokens: Array, membership: Array) -> Array:
    """Class maps (K, h, w) in [0, 1] of the maps of all classes' tokens (T, h, w).

    The mean over a class's tokens, divided by what all tokens have at a pixel, blurred. There it
    cancels that the published code makes the tokens of a pixel sum to 1 before.

    Args:
        tokens: the weighted sum over the layers.
        membership: (K, T) float32, rows that sum to 1.
    """
    xp = array_module(tokens)
    tokens = xp.maximum(tokens, 0)
    total = tokens.sum(axis=0)
    flat = membership @ tokens.reshape(len(tokens), -1)
    maps = flat.reshape(-1, *tokens.shape[1:])
    return blurred(xp.where(total > 0, maps / xp.where(total > 0, total, 1), 0))


def largest(maps: Array, first: NDArray[np.int64]) -> Array:
    """(classes, h, w), the largest of each class's maps; of (maps, h, w) those of a class lie one
    behind the other, from `first` (classes,) on."""
    ends = [*first[1:].tolist(), len(maps)]
    own = zip(first.tolist(), ends, strict=True)
    return array_module(maps).stack([maps[a:b].max(axis=0) for a, b in own])  # type: ignore[no-any-return]


def blurred(maps: Array) -> Array:
    """Maps (K, side, side) under a 5×5 Gaussian, mirrored at the border without its edge."""
    side = maps.shape[1]
    offsets = np.arange(BLUR) - BLUR // 2
    line = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    mirrored = np.pad(np.arange(side), BLUR // 2, mode="reflect")
    matrix = np.zeros((side, side))
    for offset, weight in enumerate(line / line.sum()):
        np.add.at(matrix, (np.arange(side), mirrored[offset : offset + side]), weight)
    operator = array_module(maps).asarray(matrix.astype("float32"))
    return operator @ maps @ operator.T  # type: ignore[no-any-return]
