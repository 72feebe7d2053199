"""The second eigenvector of a graph, after which its nodes are ordered and cut (Fiedler 1973).

Of D^-½ A D^-½ the largest eigenvalue is 1 and its eigenvector D^½ 1. Lanczos' iteration (Golub and
Van Loan, §10.1) that starts with that one as the first of its basis, and keeps the basis
orthogonal, finds the next: a product with A a step, and the host waits only where it asks whether
the vector is found.
"""

from __future__ import annotations

import numpy as np

from .grid import Array, array_module
from .spectral import TOLERANCE

LEANING = 1e-2
"""Length of a random vector in the start, whose other part is what the graph says of its loneliest
node: that turns with the picture, and the rest sees to it that no eigenvector is orthogonal."""

STEPS = 400
"""Most steps. Where they do not do, no gap tells the second eigenvector from those after it."""

TINY = 1e-30
"""Lengths below this are none."""


def second_eigenvector(weights: Array, degrees: Array) -> Array:
    """D^-½ times the eigenvector of the second smallest eigenvalue of D^-½ (D − A) D^-½.

    The entry of largest size is positive.

    Args:
        weights: A (n, n) floating point, symmetric, not negative, n at least 2.
        degrees: D's diagonal A·1 (n,) float64, above 0.

    Returns:
        (n,) float64, of length 1 before the product with D^-½.
    """
    xp, n = array_module(weights), len(weights)
    root = xp.sqrt(degrees)
    capacity = min(n, STEPS)  # with the first eigenvector; the space has no more
    basis = xp.empty((capacity, n))
    basis[0] = root / xp.sqrt((root * root).sum())
    _append(basis, 1, _start(weights, root))
    diagonal, beside = xp.zeros(capacity), xp.zeros(capacity)
    used = checked = 1
    while True:
        q = basis[used]
        image = ((q / root).astype(weights.dtype) @ weights) / root
        diagonal[used] = image @ q
        used += 1
        full = used == capacity
        if not full:
            beside[used] = _append(basis, used, image)
        if full or used >= 1.25 * checked + 2:
            checked = used
            links = beside[2:used]
            ritz = xp.diag(diagonal[1:used]) + xp.diag(links, 1) + xp.diag(links, -1)
            found = xp.linalg.eigh(ritz)[1][:, -1]
            if full or float(abs(beside[used] * found[-1])) <= TOLERANCE:
                v = (found @ basis[1:used]) / root
                return v * xp.sign(v[abs(v).argmax()])  # type: ignore[no-any-return]


def _start(weights: Array, root: Array) -> Array:
    """The normalised affinity of the node of smallest degree, and a little of everything else."""
    xp, n = array_module(weights), len(weights)
    row = weights[root.argmin()] / root
    noise = xp.asarray(np.random.default_rng(0).standard_normal(n))
    return row / xp.sqrt((row * row).sum()) + LEANING / n**0.5 * noise  # type: ignore[no-any-return]


def _append(basis: Array, used: int, vector: Array) -> Array:
    """Make a vector orthogonal to the `used` first rows and of length 1, the next row; what was
    left of its length, () float64.

    What was numerically zero becomes an arbitrary direction, so it is made orthogonal again.
    """
    xp = array_module(basis)
    spanned = basis[:used]
    vector = vector - (spanned @ vector) @ spanned
    length = xp.sqrt(vector @ vector)
    vector = vector / xp.maximum(length, TINY)
    vector -= (spanned @ vector) @ spanned
    basis[used] = vector / xp.maximum(xp.sqrt(vector @ vector), TINY)
    return length  # type: ignore[no-any-return]
