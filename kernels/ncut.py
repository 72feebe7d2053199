"""DiffCut's segments: a graph of the features' cells, cut in two again and again (Couairon et al.,
NeurIPS 2024, arXiv 2406.02842; Shi and Malik 2000).

    W = minmax(cosines)^α,    ncut(S) = cut(S, V∖S)/assoc(S, V) + cut(S, V∖S)/assoc(V∖S, V)

A part is cut where the second eigenvector of its Laplacian passes the best of 100 thresholds, and
only if that costs less than τ. Here the cheapest cut of all parts is always made next: the parts at
the end are those of the published recursion, and k parts are had by stopping at k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from .affinity import rescaled
from .autosc import autosc
from .fiedler import second_eigenvector
from .found import uniform
from .grid import Array, Grid, array_module
from .segments import check_segments, in_order_of_appearance
from .spectral import finite_cosines

CutMethod: TypeAlias = Literal["recursive", "autosc"]
Quirks: TypeAlias = Literal["none", "published"]

TAU = 0.5
"""A cut that costs this is not made (published)."""

ALPHA = 10.0
"""Power of the rescaled cosines (published)."""

THRESHOLDS = 100
SHRINK = 0.99
"""Thresholds lie evenly between these shares of the eigenvector's ends (published)."""

ALIKE = 1e-5
"""Affinities that differ by less are equal: nothing is to be cut."""


def ncut(
    features: Sequence[Grid],
    segments: int | Literal["auto"] = "auto",
    tau: float = TAU,
    alpha: float = ALPHA,
    method: CutMethod = "recursive",
    quirks: Quirks = "none",
) -> tuple[Array, int]:
    """Segment labels (rows, columns) int64 of the finest level's cells, and their number k.

    Labels lie in [0, k), numbered as they first appear from the top left. k is lower than asked
    for where cells have fewer distinct features.

    Args:
        segments: how many; "auto" cuts as long as a cut costs less than τ.
        tau, alpha: of method "recursive"; "autosc" finds α, and k, where eigenvalues leap.
        quirks: "published" follows the published code where that is not what is meant: below the
            first cut it leaves out cells that have an affinity of exactly 0, which keep the label
            that they had, and its autosc cuts by the eigenvectors of the last α tried. "none" also
            leaves a picture whole that is uniform.
    """
    check_segments(segments)
    if method not in ("recursive", "autosc"):
        raise ValueError(f"method {method!r} is not one of recursive, autosc")
    if quirks not in ("none", "published"):
        raise ValueError(f"quirks {quirks!r} is not one of none, published")
    alike, size = finite_cosines(features)
    published = quirks == "published"
    if segments == "auto" and not published and uniform(alike):
        segments = 1
    if method == "autosc":
        labels = autosc(alike, segments, published)
    else:
        labels = recursive_cut(rescaled(alike, alpha), segments, tau, published)
    labels = in_order_of_appearance(labels)
    return labels.reshape(size), int(labels.max()) + 1


class Cut(NamedTuple):
    """The best way to cut a part in two."""

    cost: float
    inside: Array
    """Nodes (m,) int64 on the side of the eigenvector's largest entry."""
    outside: Array


def recursive_cut(
    weights: Array,
    segments: int | Literal["auto"] = "auto",
    tau: float = TAU,
    published: bool = False,
) -> Array:
    """Labels (n,) int64 of the nodes of a graph with the affinity `weights` (n, n), not negative
    and symmetric, of a positive diagonal."""
    xp, n = array_module(weights), len(weights)
    labels = xp.zeros(n, dtype="int64")
    kept = xp.all(weights > 0, axis=1) if published else None
    count, fresh = 1, [xp.arange(n)]
    cuts: list[Cut] = []
    while count != segments:
        cuts += [cut for nodes in fresh if (cut := best_cut(weights, nodes)) is not None]
        if not cuts:
            break
        cheapest = min(range(len(cuts)), key=lambda i: cuts[i].cost)
        if segments == "auto" and cuts[cheapest].cost >= tau:
            break
        _, inside, outside = cuts.pop(cheapest)
        labels[inside] = count
        count += 1
        fresh = [
            side if kept is None else side[xp.flatnonzero(kept[side])] for side in (inside, outside)
        ]
    return labels  # type: ignore[no-any-return]


def best_cut(weights: Array, nodes: Array) -> Cut | None:
    """The cheapest cut at a threshold of the second eigenvector; None where all nodes (m,) of the
    part are alike."""
    xp = array_module(weights)
    if len(nodes) < 2:
        return None
    part = weights if len(nodes) == len(weights) else weights.take(nodes, 0).take(nodes, 1)
    if float(part.max() - part.min()) <= ALIKE:
        return None
    v = second_eigenvector(part, part.sum(axis=1, dtype="float64"))
    low, high = SHRINK * v.min(), SHRINK * v.max()
    thresholds = low + (high - low) / (THRESHOLDS - 1) * xp.arange(THRESHOLDS)
    passed = xp.searchsorted(thresholds, v)  # (m,) how many of them are below an entry
    costs = threshold_costs(part, passed)
    best = int(costs.argmin())
    inside = passed > best
    return Cut(float(costs[best]), nodes[inside], nodes[~inside])


def threshold_costs(weights: Array, passed: Array) -> Array:
    """The normalised cut of {i : passed_i > j} for every threshold j, (`THRESHOLDS`,) float64;
    infinite where a side is empty.

    The affinity is summed once between nodes that pass equally many thresholds; all cuts are sums
    of these.
    """
    xp = array_module(weights)
    bins = (passed == xp.arange(THRESHOLDS + 1)[:, None]).astype(weights.dtype)
    between = ((bins @ weights) @ bins.T).astype("float64")
    volume = between.sum(axis=1)
    below, above = xp.cumsum(volume)[:-1], xp.cumsum(volume[::-1])[::-1][1:]
    within = xp.cumsum(xp.cumsum(between[::-1, ::-1], axis=0), axis=1).diagonal()[::-1][1:]
    cut = above - within
    empty = (below <= 0) | (above <= 0)
    costs = cut / xp.where(empty, 1, below) + cut / xp.where(empty, 1, above)
    return xp.where(empty, xp.inf, costs)  # type: ignore[no-any-return]
