"""k-means: Lloyd's iterations from k-means++ starts, the same result for the same seed.

A centre is a weighted mean of points, so distances need only the points' inner products, applied
as an operator G: with the weights of k centres as rows W (k, n), ⟨p, c⟩ is W G and ‖c‖² the
diagonal of W G Wᵀ. The same iterations then serve explicit points (G = P Pᵀ) and the cosine
affinity, where they are exactly k-means on the L2-normalised features, of thousands of channels,
without building one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .grid import Array, array_module

Gram: TypeAlias = Callable[[Array], Array]  # (m, n) → (m, n), every row times G

COINCIDENT = 1e-6
"""Squared distances below this share of the largest squared length are 0: float32 features do not
hold smaller ones."""


@dataclass(frozen=True)
class KMeans:
    """A clustering of n points."""

    labels: Array
    """(n,) int64 in [0, k); no cluster is empty."""
    k: int
    """Lower than was asked for if fewer points are distinct."""
    inertia: float
    """Sum of squared distances of the points to their centres."""


def kmeans(
    points: Array, k: int, seed: int = 0, restarts: int = 8, iterations: int = 100
) -> KMeans:
    """The clustering of points (n, d) with the smallest inertia among `restarts` runs."""
    squares = (points * points).sum(axis=1)
    return gram_kmeans(
        lambda rows: (rows @ points) @ points.T, squares, k, seed, restarts, iterations
    )


def gram_kmeans(
    gram: Gram, squares: Array, k: int, seed: int = 0, restarts: int = 8, iterations: int = 100
) -> KMeans:
    """`kmeans` of points known by their inner products and their squared lengths (n,)."""
    if not 1 <= k <= len(squares):
        raise ValueError(f"k must lie in [1, {len(squares)}], got {k}")
    random = np.random.default_rng(seed)
    runs = (
        lloyd(gram, squares, starts(gram, squares, k, random), iterations) for _ in range(restarts)
    )
    return min(runs, key=lambda run: run.inertia)


def starts(gram: Gram, squares: Array, k: int, random: np.random.Generator) -> list[int]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): the points to start from, at most k.

    Of a few points drawn with a chance proportional to their squared distance from those before,
    the one that leaves the smallest sum of them is taken: as quick, and a run ends in the best
    optimum known more often. Drawing ends early when every point coincides with one chosen.
    """
    xp, n = array_module(squares), len(squares)
    trials = 2 + int(np.log(k))  # as many as scikit-learn draws
    chosen = [int(random.integers(n))]
    nearest = _distances(gram, squares, _one_hot(squares, chosen))[0]
    while len(chosen) < k:
        cumulative = xp.cumsum(nearest)
        total = float(cumulative[-1])
        if total <= 0:
            break
        targets = xp.asarray(random.random(trials) * total)
        drawn = xp.minimum(xp.searchsorted(cumulative, targets, side="right"), n - 1).tolist()
        after = xp.minimum(nearest, _distances(gram, squares, _one_hot(squares, drawn)))
        best = int(after.sum(axis=1).argmin())
        chosen.append(drawn[best])
        nearest = after[best]
    return chosen


def lloyd(gram: Gram, squares: Array, chosen: list[int], iterations: int = 100) -> KMeans:
    """Lloyd's iterations from the given points as centres, until no label changes.

    A cluster left empty takes over the point farthest from its own centre.
    """
    xp = array_module(squares)
    k = len(chosen)
    numbers = xp.arange(k)[:, None]
    weights = _one_hot(squares, chosen)
    labels = xp.full(len(squares), -1)
    for _ in range(iterations):
        distances = _distances(gram, squares, weights)
        nearest = _without_empty(distances.argmin(axis=0), distances.min(axis=0), k)
        if bool((nearest == labels).all()):
            break
        labels = nearest
        members = (labels[None, :] == numbers).astype(squares.dtype)
        weights = members / members.sum(axis=1, keepdims=True)
    own = xp.take_along_axis(_distances(gram, squares, weights), labels[None, :], axis=0)
    return KMeans(labels, k, float(own.sum()))


def _one_hot(squares: Array, chosen: list[int]) -> Array:
    """Weights (m, n) of centres that are single points."""
    xp = array_module(squares)
    weights = xp.zeros((len(chosen), len(squares)), dtype=squares.dtype)
    weights[xp.arange(len(chosen)), xp.asarray(chosen)] = 1
    return weights  # type: ignore[no-any-return]


def _distances(gram: Gram, squares: Array, weights: Array) -> Array:
    """‖p − c‖² (m, n) for the centres with the given weights (m, n)."""
    inner = gram(weights)
    distances = squares - 2 * inner + (weights * inner).sum(axis=1, keepdims=True)
    distances[distances < COINCIDENT * float(squares.max())] = 0
    return distances  # type: ignore[no-any-return]


def _without_empty(labels: Array, distances: Array, k: int) -> Array:
    """Labels (n,) in which every cluster that was empty has one of the farthest points."""
    xp = array_module(labels)
    counts = xp.bincount(labels, minlength=k)
    for empty in xp.flatnonzero(counts == 0).tolist():
        farthest = int(xp.where(counts[labels] > 1, distances, -1).argmax())
        counts[labels[farthest]] -= 1
        counts[empty] = 1
        labels[farthest] = empty
        distances[farthest] = 0
    return labels
