"""GoCA, naively (arXiv 2603.06178, CVPR 2026; repository Darkbblue/goca).

Follows `src-main/components/cross_attn_dispatch.py`, `space_attn_dispatch.py` and
`postprocess_dispatch.py`: heads to one map a layer, layers to one map, then rescaling, blur and
spreading along self-attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .resizing import bilinear, resized_attention, square_side
from .scaling import minmax_each, softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

BLUR = 5
SIGMA = 0.3 * ((BLUR - 1) / 2 - 1) + 0.8  # torchvision's default: 1.1


# ---- heads to one map a layer -------------------------------------------------------------------


def layer_map(P: Floats, V: Floats, W: Floats) -> tuple[Floats, Floats]:
    """C_l (N, T) and the heads' weights (heads, N) of one cross-attention layer.

    `P` (heads, N, T) are probabilities, `V` (heads, T, d) values, `W` (heads, d, D) each head's
    part of the output projection. A head's contribution is r_n = P_n V_n W_n, without bias, and R
    their sum; it weighs <r_n, R>/‖R‖², which may be negative. Where R is 0 all weigh the same.
    """
    heads, pixels, _ = P.shape
    r = np.stack([P[n] @ V[n] @ W[n] for n in range(heads)])
    total = r.sum(axis=0)
    w = np.zeros((heads, pixels))
    for p in range(pixels):
        products = np.array([r[n, p] @ total[p] for n in range(heads)])
        whole = products.sum()
        w[:, p] = products / whole if whole != 0 else 1 / heads
    c = np.zeros(P.shape[1:])
    for n in range(heads):
        c += w[n][:, None] * P[n]
    return c, w


# ---- layers to one map --------------------------------------------------------------------------


def layer_weights(F: Floats, selves: Sequence[Floats]) -> Floats:
    """One weight a layer (layers,), sum 1, from the reference features `F` (n, D).

    `selves` are self-attention layers (heads, r·r, r·r); their head mean is resized to the
    reference's grid, keys bilinear and queries repeated, without making rows sum to 1 again. A
    weight is its sum of products with softmax(FFᵀ/√D), not below 0. If none is above 0, all
    layers weigh the same.
    """
    side = square_side(len(F))
    reference = softmax(F @ F.T / np.sqrt(F.shape[1]))
    weights = np.zeros(len(selves))
    for i, heads in enumerate(selves):
        resized = resized_attention(heads.mean(axis=0), side, "bilinear")
        weights[i] = max(0.0, float((reference * resized).sum()))
    if weights.sum() == 0:
        return np.full(len(selves), 1 / len(selves))
    normalised: Floats = weights / weights.sum()
    return normalised


def aggregate(maps: Sequence[Floats], weights: Floats, side: int) -> Floats:
    """C (side², T), rows sum to 1, from the layers' `maps`, each (r·r, T), and `weights`.

    Each is resized bilinearly; the weighted sum is cut at 0. A pixel left with zeros stays so.
    """
    tokens = maps[0].shape[1]
    c = np.zeros((side * side, tokens))
    for one, weight in zip(maps, weights, strict=True):
        r = square_side(len(one))
        resized = bilinear(one.T.reshape(tokens, r, r), (side, side))
        c += weight * resized.reshape(tokens, side * side).T
    c = np.maximum(c, 0.0)
    for p in range(len(c)):
        total = c[p].sum()
        if total > 0:
            c[p] = c[p] / total
    return c


# ---- rescaling, blur, spreading -----------------------------------------------------------------


def rescale(C: Floats, groups: Sequence[Sequence[int]], content: Sequence[int]) -> Floats:
    """Maps (K, N), each in [0, 1], of the `groups` of tokens in `C` (N, T), N a square grid.

    The mean of a group's tokens is divided by the sum over the `content` tokens (all but the global
    ones, such as BOS), blurred, and min–maxed. Where that sum is 0 the map is 0.
    """
    side = square_side(len(C))
    factor = np.zeros(len(C))
    for token in content:
        factor += C[:, token]
    maps = np.zeros((len(groups), len(C)))
    for k, tokens in enumerate(groups):
        mean = C[:, list(tokens)].mean(axis=1)
        for p in range(len(C)):
            maps[k, p] = mean[p] / factor[p] if factor[p] != 0 else 0.0
    blurred = blur5(maps.reshape(-1, side, side)).reshape(maps.shape)
    return minmax_each(blurred)


def blur5(maps: Floats) -> Floats:
    """`maps` (K, h, w) under a 5×5 Gaussian of sigma 1.1, the border mirrored without its edge.

    As `torchvision.transforms.functional.gaussian_blur(maps, 5)`; h and w are at least 3.
    """
    offsets = np.arange(BLUR) - BLUR // 2
    line = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    line = line / line.sum()
    reach = BLUR // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    _, h, w = maps.shape
    blurred = np.zeros_like(maps)
    for dy in range(BLUR):
        for dx in range(BLUR):
            blurred += line[dy] * line[dx] * padded[:, dy : dy + h, dx : dx + w]
    return blurred


def spreading(selves: Sequence[Floats], side: int) -> Floats:
    """S (side², side²): mean of the layers' head-mean self-attention, each (heads, r·r, r·r).

    Keys are resized bilinearly, queries repeated; rows are not made to sum to 1 again.
    """
    total = np.zeros((side * side, side * side))
    for heads in selves:
        total += resized_attention(heads.mean(axis=0), side, "bilinear")
    mean: Floats = total / len(selves)
    return mean


def propagate(S: Floats, m: Floats, times: int = 2) -> Floats:
    """`m` (K, N) after m ← S m `times` times, then min–max per map; `S` (N, N).

    The background's map goes the same way: one of zeros stays zeros.
    """
    spread = m
    for _ in range(times):
        spread = spread @ S.T
    return minmax_each(spread)


def labels(maps: Floats, background: Floats, offset: float) -> Labels:
    """Labels (H, W) of `maps` (K, H, W): 0 where `background` (H, W) + `offset` is the largest.

    Only classes present in the picture take part; the published code gives the absent ones a
    score of 0, which can win only where nothing is above 0.
    """
    scores = np.concatenate([(background + offset)[None], maps])
    return np.asarray(scores.argmax(axis=0), dtype=np.int64)
