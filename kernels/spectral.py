"""Smallest eigenvectors of the symmetric normalised Laplacian I − D^-½ S D^-½.

They are the largest ones of D^-½ S D^-½, a Gram matrix, found by a block Krylov method with full
reorthogonalisation (Golub and Van Loan, §10.3): a few dozen operator products, blocks wide enough
that equal eigenvalues do not hide one another, and at the latest exact when the basis spans the
operator's range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .affinity import CELLS_SIDE, Affinity, cosines
from .grid import Array, Grid, Size, array_module

TOLERANCE = 1e-6
"""Largest residual ‖A x − λ x‖ at which an eigenpair counts as found; eigenvalues are below ~1."""
ACCEPTED_RESIDUAL = 1e-4
"""Largest residual returned, as a share of the largest eigenvalue where that exceeds 1."""
DENSE_LIMIT = 400
"""Up to this many pixels the matrix is built and solved directly."""
DENSE_BLOCKS = 16
"""So it is where the basis would be full after this many blocks: too few to converge in."""
OVERSAMPLING = 8
"""Vectors carried beyond the wanted ones, which speeds convergence of the last."""
NULL_AFFINITY = 1e-6
"""An eigenvector whose affinity eigenvalue is below this is arbitrary: it is left out."""

ROUNDING = 1e-3
"""Rows of the eigenvectors below this share of the longest are pixels in which these eigenvectors
vanish: of more separate parts than there are eigenvectors, some have no share in them."""


class SpectralError(RuntimeError):
    """The eigenvectors of the affinity could not be found."""


def finite_cosines(features: Sequence[Grid], side: int = CELLS_SIDE) -> tuple[Array, Size]:
    """`cosines`, or SpectralError if the features hold NaN or infinity."""
    found, size = cosines(features, side)
    if not bool(array_module(found).isfinite(found.sum())):
        raise SpectralError("the affinity is not finite; the features hold NaN or infinity")
    return found, size


def spectral_embedding(affinity: Affinity, k: int) -> tuple[Array, Array]:
    """The k smallest eigenpairs: eigenvalues (k,) ascending and eigenvectors (n, k), float64.

    Raises SpectralError if a residual exceeds `ACCEPTED_RESIDUAL` (features that are not finite).
    """
    if not 1 <= k <= affinity.n:
        raise ValueError(f"k must lie in [1, {affinity.n}], got {k}")
    xp = affinity.xp
    if not bool(xp.isfinite(affinity.degrees).all()):
        raise SpectralError("the affinity is not finite; the features hold NaN or infinity")
    dense = affinity.n <= max(DENSE_LIMIT, DENSE_BLOCKS * (k + OVERSAMPLING))
    values, vectors = (_dense if dense else _block_krylov)(affinity, k)
    residuals = affinity.normalised_matvec(vectors) - values[:, None] * vectors
    worst = float(xp.sqrt((residuals * residuals).sum(axis=1)).max())
    if not worst <= ACCEPTED_RESIDUAL * max(1.0, float(values[0])):
        raise SpectralError(f"eigenvector residual {worst:.1e} exceeds {ACCEPTED_RESIDUAL:.0e}")
    return 1 - values, vectors.T


def normalised_rows(embedding: Array) -> Array:
    """Rows of (n, k) scaled to length 1 (Ng, Jordan and Weiss 2001), so that a pixel's degree
    does not set its distance to the others; what is `ROUNDING` stays short."""
    xp = array_module(embedding)
    lengths = xp.sqrt((embedding * embedding).sum(axis=1, keepdims=True))
    floor = ROUNDING * float(lengths.max()) or 1.0
    return embedding / xp.maximum(lengths, floor)  # type: ignore[no-any-return]


def _dense(affinity: Affinity, k: int) -> tuple[Array, Array]:
    """The k largest eigenvalues, descending, and their eigenvectors as rows (k, n)."""
    xp = affinity.xp
    matrix = affinity.normalised_matvec(xp.eye(affinity.n))
    values, vectors = xp.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1][:k], vectors[:, ::-1][:, :k].T


def _block_krylov(affinity: Affinity, k: int) -> tuple[Array, Array]:
    """As `_dense`, by Rayleigh–Ritz in the span of X, A X, A² X, … for a fixed random block X."""
    xp, n = affinity.xp, affinity.n
    width = k + OVERSAMPLING
    capacity = min(n, affinity.rank + 2 * width) // width * width
    basis = xp.empty((capacity, n))
    projected = xp.zeros((capacity, capacity))
    block, _ = _orthonormal(xp.asarray(np.random.default_rng(0).standard_normal((width, n))))
    used = checked = 0
    while True:
        basis[used : used + width] = block
        image = affinity.normalised_matvec(block)
        used += width
        spanned = basis[:used]
        coupling = spanned @ image.T
        projected[:used, used - width : used] = coupling
        projected[used - width : used, :used] = coupling.T
        image -= coupling.T @ spanned
        image -= (image @ spanned.T) @ spanned
        block, length = _orthonormal(image)
        full = used + width > capacity
        if full or used >= 1.25 * checked:
            checked = used
            values, ritz = xp.linalg.eigh(projected[:used, :used])
            values, ritz = values[::-1][:k], ritz[:, ::-1][:, :k]
            residuals = length @ ritz[-width:]
            if full or float((residuals * residuals).sum(axis=0).max()) <= TOLERANCE**2:
                return values, ritz.T @ spanned
        # What was numerically zero became an arbitrary direction: make it orthogonal again.
        block -= (block @ spanned.T) @ spanned
        block, _ = _orthonormal(block)


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """(Q, R): orthonormal rows Q (m, n) and the triangle R (m, m) with rows = Rᵀ Q."""
    q, r = array_module(rows).linalg.qr(rows.T)
    return q.T, r
