"""Class maps and labels in the order of the official code, naively: the oracle of the kernels.

Written from the paper (Kawano & Aoki, arXiv 2403.11194, Eq. 4-6) and from what the official
functions do, one after another; it has seen no line of `mdrt` and holds every map and every
feature in float64 at full resolution. The official steps, and where they stand:

1. exp of the scaled products QKᵀ/√d in the attention hook, at the layer's own grid
   (`ptp_utils.register_attention_control`);
2. each layer resized bilinearly, align_corners=False, to one common grid of 32×32 at 512²,
   heads of all layers put in one row and averaged (`atten.aggregate_attention`);
3. maps resized to the output, and only then divided by their maxima
   (`atten.show_cross_attention`, `atten.generate_atten`); a weighted mean cannot see the scale;
4. features resized to the output and concatenated, each pixel divided by its norm, averaged
   under the maps into prototypes, which keep their lengths; the class is the largest inner
   product (`run.generate_semseg_from_feat_atten`).

The official code knows classes of one token. Several are averaged between 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]
Size = tuple[int, int]


def official_maps(
    layers: Sequence[Floats],
    token_class: NDArray[np.int64],
    classes: int,
    pooling: str,
    grid: Size | None = None,
) -> torch.Tensor:
    """Maps (classes, gh, gw) of `layers`, each (heads, tokens, h, w); `grid` None: the largest.

    `layers` are logits for "exp" and "logit", probabilities for "softmax".
    """
    tensors = [torch.from_numpy(layer.astype(np.float64)) for layer in layers]
    common = grid or largest(tensors)
    maps = []
    for c in range(classes):
        of_class = [layer[:, torch.from_numpy(token_class == c)] for layer in tensors]
        if pooling == "exp":
            # The official exp has no shift and overflows; a factor cancels in the division below.
            shift = max(layer.max() for layer in of_class)
            of_class = [torch.exp(layer - shift) for layer in of_class]
        maps.append(finish(mean_map([bilinear(layer, common) for layer in of_class]), pooling))
    return torch.stack(maps)


def logits_resized_first(
    layers: Sequence[Floats], token_class: NDArray[np.int64], classes: int, grid: Size
) -> torch.Tensor:
    """The mistake that the tests must see: logits resized to the common grid, then exp."""
    resized = [bilinear(torch.from_numpy(layer.astype(np.float64)), grid) for layer in layers]
    as_arrays = [layer.numpy() for layer in resized]
    return official_maps(as_arrays, token_class, classes, "exp", grid)


def official_scores(
    features: Sequence[Floats], maps: torch.Tensor, size: Size, mode: str
) -> torch.Tensor:
    """Scores (classes, H, W) from features, each (d, h, w), and maps (classes, gh, gw)."""
    levels = [bilinear(torch.from_numpy(level.astype(np.float64)), size) for level in features]
    f = torch.cat(levels)
    unit = f / torch.linalg.vector_norm(f, dim=0)
    weights = bilinear(maps, size)
    weights = weights / weights.amax(dim=(1, 2), keepdim=True)
    averaged = unit if mode == "released" else f
    prototypes = torch.stack([(a * averaged).sum(dim=(1, 2)) / a.sum() for a in weights])
    if mode == "paper":
        prototypes = prototypes / torch.linalg.vector_norm(prototypes, dim=1, keepdim=True)
    return torch.stack([(p[:, None, None] * unit).sum(dim=0) for p in prototypes])


def official_labels(
    features: Sequence[Floats], maps: torch.Tensor, size: Size, mode: str
) -> NDArray[np.int64]:
    """The class of the largest score at each pixel, (H, W)."""
    labels: NDArray[np.int64] = official_scores(features, maps, size, mode).argmax(dim=0).numpy()
    return labels


def softmax_over_tokens(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of (heads, tokens, h, w) over all tokens, at the layer's own grid."""
    tensor = torch.from_numpy(logits.astype(np.float64))
    probabilities: NDArray[np.float64] = torch.softmax(tensor, dim=1).numpy()
    return probabilities


def bilinear(maps: torch.Tensor, size: Size) -> torch.Tensor:
    """(…, h, w) to (…, H, W), with no low-pass before, as F.interpolate does."""
    *rest, h, w = maps.shape
    flat = F.interpolate(maps.reshape(1, -1, h, w), size, mode="bilinear", align_corners=False)
    return flat.reshape(*rest, *size)


def largest(layers: Sequence[torch.Tensor]) -> Size:
    h, w = max((tuple(layer.shape[2:]) for layer in layers), key=lambda shape: shape[0] * shape[1])
    return h, w


def mean_map(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """(heads, tokens, gh, gw) a layer to (gh, gw): over the heads of all layers, then tokens."""
    return torch.cat(list(layers)).mean(dim=0).mean(dim=0)


def finish(mean: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "logit":
        return (mean - mean.min()) / (mean.max() - mean.min())
    return mean / mean.max()
