"""What happens after the network: class maps, prototypes, assignment, segments.

The verbs in the order in which data flows:

- named classes: `class_maps` → `prototypes` → `score_maps` → `assign`
- no names: `cluster` → `cluster_weights` → `prototypes` → `score_maps` → `assign`, with `ncut` or
  `multicut` for `cluster`
- class maps spread by self-attention: `mean_map` or `attend`, and `refining`'s steps
- boundaries along the picture's edges: … → `score_maps` → `fine_scores` → `assign_along_edges`, or
  `pamr` → `assign`

Everything runs on the arrays it is given, NumPy's or CuPy's, by the exact low-resolution algebra:
resizing is linear, so it is applied to a few score maps instead of thousands of feature maps.
"""

from .affinity import AFFINITY_SIZE, Affinity
from .aligned import cosines, smoothed, unlikely
from .assign import Assignment, assign, fine_scores, full_scores, never, score_maps
from .attention import (
    Pooling,
    absent,
    class_maps,
    class_totals,
    logits,
    membership,
    token_softmax,
    won_shares,
)
from .diffseg import merged_maps, merged_tokens
from .edges import (
    Guide,
    assign_along_edges,
    assign_some_along_edges,
    edge_grid,
    scores_along_edges,
)
from .found import found
from .goca import head_weights, joined, largest, layer_map, layer_weights, rescaled
from .grid import Array, Grid, Mode, Size, array_module, void
from .kmeans import KMeans, gram_kmeans, kmeans
from .multicut import multicut
from .ncut import CutMethod, Quirks, ncut
from .norms import pixel_norms
from .pamr import pamr
from .prototypes import prototype_sums, prototypes
from .refining import (
    at_side,
    head_mean,
    iterate,
    less_entropy,
    minmax,
    smooth_by_clusters,
    spread_below,
    sum_to_one,
)
from .resize import resize
from .segments import MAX_SEGMENTS, Method, cluster, cluster_weights
from .self_attention import Layer, attend, mean_map, spread
from .spectral import SpectralError, spectral_embedding
from .views import blended

__all__ = [
    "AFFINITY_SIZE",
    "MAX_SEGMENTS",
    "Affinity",
    "Array",
    "Assignment",
    "CutMethod",
    "Grid",
    "Guide",
    "KMeans",
    "Layer",
    "Method",
    "Mode",
    "Pooling",
    "Quirks",
    "Size",
    "SpectralError",
    "absent",
    "array_module",
    "assign",
    "assign_along_edges",
    "assign_some_along_edges",
    "at_side",
    "attend",
    "blended",
    "class_maps",
    "class_totals",
    "cluster",
    "cluster_weights",
    "cosines",
    "edge_grid",
    "fine_scores",
    "found",
    "full_scores",
    "gram_kmeans",
    "head_mean",
    "head_weights",
    "iterate",
    "joined",
    "kmeans",
    "largest",
    "layer_map",
    "layer_weights",
    "less_entropy",
    "logits",
    "mean_map",
    "membership",
    "merged_maps",
    "merged_tokens",
    "minmax",
    "multicut",
    "ncut",
    "never",
    "pamr",
    "pixel_norms",
    "prototype_sums",
    "prototypes",
    "rescaled",
    "resize",
    "score_maps",
    "scores_along_edges",
    "smooth_by_clusters",
    "smoothed",
    "spectral_embedding",
    "spread",
    "spread_below",
    "sum_to_one",
    "token_softmax",
    "unlikely",
    "void",
    "won_shares",
]
