"""MaskDiffusion's mathematics as the paper writes it, at full resolution, in PyTorch.

This is the oracle for `mdrt.kernels`: it shares no code and no algebra with that room. Every
feature is resized to the output grid and concatenated, every score of every class is held, the
affinity is a dense matrix. Slow and large on purpose; run it in float64 for a reference value.

Shapes used throughout:

- features: list of (d_l, h_l, w_l), one level each; `extents` gives for each the share (rows,
  columns) in (0, 1] of the grid, from the top left, which the image covers (default: all of it);
- logits: list of (heads, tokens, h, w), one attention layer each;
- size: (H, W), the output grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Extent = tuple[float, float]
Size = tuple[int, int]

WHOLE: Extent = (1.0, 1.0)
DEGREE_FLOOR = (
    1e-3  # share of the largest degree, or of 1: cosines can be negative, degrees must not be
)


def resize(values: Tensor, size: Size, extent: Extent = WHOLE) -> Tensor:
    """Bilinear resize (align_corners=False) of the covered share of (channels, h, w) to `size`."""
    if extent == WHOLE:
        return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
    rows, columns = (
        2 * (torch.arange(n, dtype=values.dtype) + 0.5) / n * share - 1
        for n, share in zip(size, extent, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(
        values[None], points, mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def upsample(
    features: Sequence[Tensor], size: Size, extents: Sequence[Extent] | None = None
) -> Tensor:
    """f of Eq. 5: every level resized to `size` and concatenated, (Σ d_l, H, W)."""
    extents = extents or [WHOLE] * len(features)
    levels = zip(features, extents, strict=True)
    return torch.cat([resize(level, size, extent) for level, extent in levels])


def class_maps(
    logits: Sequence[Tensor],
    token_class: Tensor,
    classes: int,
    pooling: str = "exp",
    size: Size | None = None,
) -> Tensor:
    """a_c on the common grid `size`, (classes, gh, gw), each map's maximum 1.

    Every head is exponentiated where it is, then resized, as in the official code's attention
    hook; then come the mean over layers and heads, over the tokens of the class, and the division.
    `token_class` (tokens,) holds the class of each token; `size` None is the largest of the
    layers' grids. "exp" shifts by the class's own maximum, which the last division undoes; for
    pooling "softmax" the inputs are probabilities already, for "logit" QKᵀ/√d of Eq. 4 itself.
    """
    size = size or (max(x.shape[2] for x in logits), max(x.shape[3] for x in logits))
    maps = []
    for c in range(classes):
        own = [layer[:, token_class == c] for layer in logits]
        if pooling == "exp":
            largest = max(float(layer.max()) for layer in own)
            own = [(layer - largest).exp() for layer in own]
        # (layers · heads, tokens, gh, gw)
        stack = torch.cat([torch.stack([resize(head, size) for head in layer]) for layer in own])
        pooled = stack.mean(dim=0).mean(dim=0)
        if pooling in ("exp", "softmax"):
            maps.append(pooled / pooled.max())
        elif pooling == "logit":
            low, high = pooled.min(), pooled.max()
            flat = bool(high == low)
            maps.append(torch.ones_like(pooled) if flat else (pooled - low) / (high - low))
        else:
            raise ValueError(f"pooling {pooling!r} is not one of exp, softmax, logit")
    return torch.stack(maps)


def prototypes(
    features: Sequence[Tensor],
    weights: Tensor,
    size: Size,
    mode: str = "paper",
    extents: Sequence[Extent] | None = None,
    weights_extent: Extent = WHOLE,
) -> Tensor:
    """Eq. 5: f̄_c = Σ a_c f / Σ a_c over the output grid, (classes, Σ d_l).

    `weights` (classes, gh, gw) are resized to `size`. In mode "released" f is L2-normalised at
    every pixel first.
    """
    f = upsample(features, size, extents)
    if mode == "released":
        f = F.normalize(f, dim=0)
    a = resize(weights, size, weights_extent)
    return torch.einsum("chw,dhw->cd", a, f) / a.sum(dim=(1, 2))[:, None]


def scores(
    features: Sequence[Tensor],
    prototypes: Tensor,
    size: Size,
    mode: str = "paper",
    extents: Sequence[Extent] | None = None,
) -> Tensor:
    """(classes, H, W): "paper" the cosine of Eq. 6, "released" ⟨f / ‖f‖, f̄_c⟩."""
    f = F.normalize(upsample(features, size, extents), dim=0)
    if mode == "paper":
        prototypes = F.normalize(prototypes, dim=1)
    return torch.einsum("cd,dhw->chw", prototypes, f)


def assign(
    features: Sequence[Tensor],
    prototypes: Tensor,
    size: Size,
    mode: str = "paper",
    extents: Sequence[Extent] | None = None,
) -> Tensor:
    """Eq. 6: the class of the highest score at each pixel, (H, W) int64."""
    return scores(features, prototypes, size, mode, extents).argmax(dim=0)


def pixel_norms(
    features: Sequence[Tensor], size: Size, extents: Sequence[Extent] | None = None
) -> Tensor:
    """‖f(n, m)‖ on the output grid, (H, W)."""
    return upsample(features, size, extents).norm(dim=0)


def feature_points(
    features: Sequence[Tensor],
    size: Size = (100, 100),
    extents: Sequence[Extent] | None = None,
) -> Tensor:
    """L2-normalised f of every pixel in raster order, (n, Σ d_l): what k-means on f clusters."""
    return F.normalize(upsample(features, size, extents).flatten(1).T, dim=1)


def affinity(
    features: Sequence[Tensor],
    size: Size = (100, 100),
    extents: Sequence[Extent] | None = None,
) -> Tensor:
    """Eq. 7: the cosine of every pair of pixels, dense (n, n) with n = H·W."""
    f = feature_points(features, size, extents)
    return f @ f.T


def normalised_affinity(similarity: Tensor) -> Tensor:
    """D^-½ S D^-½ with D the floored row sums of S (n, n)."""
    degrees = similarity.sum(dim=1)
    degrees = degrees.clamp(min=max(float(degrees.max()), 1.0) * DEGREE_FLOOR)
    return similarity / degrees.sqrt()[:, None] / degrees.sqrt()[None, :]


def laplacian_eigs(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest eigenpairs of I − D^-½ S D^-½: values (k,) ascending, vectors (n, k)."""
    laplacian = torch.eye(len(similarity), dtype=similarity.dtype) - normalised_affinity(similarity)
    values, vectors = torch.linalg.eigh(laplacian)
    return values[:k], vectors[:, :k]


def lloyd(points: Tensor, centres: Tensor, iterations: int = 300) -> tuple[Tensor, Tensor, float]:
    """Lloyd's k-means from the given centres: labels (n,), centres (k, d), inertia."""
    for _ in range(iterations):
        labels = torch.cdist(points, centres).argmin(dim=1)
        moved = torch.stack(
            [
                points[labels == c].mean(dim=0) if bool((labels == c).any()) else centres[c]
                for c in range(len(centres))
            ]
        )
        if torch.equal(moved, centres):
            break
        centres = moved
    distances = torch.cdist(points, centres)
    return distances.argmin(dim=1), centres, float(distances.min(dim=1).values.square().sum())


def kmeans(points: Tensor, k: int, seed: int = 0, restarts: int = 20) -> Tensor:
    """The labels (n,) of the best of `restarts` Lloyd runs from k-means++ starts."""
    generator = torch.Generator().manual_seed(seed)
    best, best_inertia = torch.zeros(len(points), dtype=torch.int64), float("inf")
    for _ in range(restarts):
        first = int(torch.randint(len(points), (1,), generator=generator))
        centres = points[first : first + 1]
        while len(centres) < k:
            distances = torch.cdist(points, centres).min(dim=1).values.square()
            chance = distances if bool(distances.sum() > 0) else torch.ones_like(distances)
            picked = torch.multinomial(chance, 1, generator=generator)
            centres = torch.cat([centres, points[picked]])
        labels, _, inertia = lloyd(points, centres)
        if inertia < best_inertia:
            best, best_inertia = labels, inertia
    return best


def cluster(
    features: Sequence[Tensor],
    k: int,
    method: str = "spectral",
    size: Size = (100, 100),
    extents: Sequence[Extent] | None = None,
    seed: int = 0,
) -> Tensor:
    """Unsupervised segments on `size`, (H, W) int64 in [0, k), numbered arbitrarily.

    "spectral": k-means on the row-normalised k smallest eigenvectors (Ng, Jordan and Weiss);
    "kmeans": the paper's baseline, k-means on the L2-normalised f.
    """
    if method == "spectral":
        _, vectors = laplacian_eigs(affinity(features, size, extents), k)
        points = F.normalize(vectors, dim=1)
    else:
        points = feature_points(features, size, extents)
    return kmeans(points, k, seed).reshape(size)


def cluster_weights(labels: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """One-hot maps (k, H, W) of the segments (H, W): a_c of Eq. 5 when classes have no names."""
    return F.one_hot(labels, k).permute(2, 0, 1).to(dtype)
