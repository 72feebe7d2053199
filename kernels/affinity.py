"""The cosine affinity of all pixels (Eq. 7) as an operator, or a power of it as a matrix.

S = N⁻¹ Σ_l U_l K_l U_lᵀ N⁻¹ with K_l = F_lᵀ F_l the Gram matrix of a level, U_l its resize to the
affinity grid and N the pixel norms. On the paper's 100×100 grid S has 10⁸ entries; the operator
holds K_l (at most 1024² at Stable Diffusion's shapes) and the resize matrices. A power of the
cosines has no such form; it is taken between the network's own cells, of which there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from .grid import Array, Grid, Size, array_module
from .norms import NORM_FLOOR, squared_norms
from .resize import Resize, resize

AFFINITY_SIZE: Size = (100, 100)
"""The grid on which pixels are compared (paper, unsupervised segmentation)."""

CELLS_SIDE = 64
"""Most cells a side that are compared with one another: 4096² numbers, 128 MiB to keep and
as much again to make."""

DEGREE_FLOOR = 1e-3
"""Smallest degree, as a share of the largest, or of 1 (a pixel's cosine with itself). Cosines can
be negative, so a row sum can be zero or below; a pixel so unlike all others then counts as weakly
connected."""

CANCELLED = 1e-6
"""A pixel whose neighbours' features cancel to below this share of the largest norm has no
direction left in float32 features: its cosines shrink towards 0 instead of being rounding noise."""

EQUAL = 1e-6
"""Cosines in float32 that differ by less are one and the same."""


class Affinity:
    """The matrix of pixel cosines (n, n), n = rows·columns, applied but never built."""

    def __init__(self, features: Sequence[Grid], size: Size = AFFINITY_SIZE) -> None:
        self.xp = array_module(features[0].values)
        self.size = size
        self.n = size[0] * size[1]
        self.rank = min(self.n, sum(min(level.flat.shape) for level in features))
        """The rank of S is at most this."""
        squared = squared_norms(features, size)
        floor = max(CANCELLED**2 * float(squared.max()), NORM_FLOOR**2)
        self._norms = self.xp.sqrt(self.xp.maximum(squared, floor))
        self._levels = [_Level(level, size) for level in features]

    def matvec(self, v: Array) -> Array:
        """S v for v (n,), or for each row of v (m, n); same shape, float64."""
        scaled = v.reshape(-1, *self.size) / self._norms
        total: Array = sum(level.apply(scaled) for level in self._levels) / self._norms
        return total.reshape(v.shape)

    @cached_property
    def degrees(self) -> Array:
        """Row sums S·1, (n,) float64, not below `DEGREE_FLOOR`."""
        sums = self.matvec(self.xp.ones(self.n))
        return self.xp.maximum(sums, DEGREE_FLOOR * max(float(sums.max()), 1.0))  # type: ignore[no-any-return]

    def normalised_matvec(self, v: Array) -> Array:
        """D^-½ S D^-½ v for v (n,), or for each row of v (m, n)."""
        root = self.xp.sqrt(self.degrees)
        return self.matvec(v / root) / root  # type: ignore[no-any-return]


class CellAffinity(Affinity):
    """max(S, 0) to a power, held as a matrix between cells.

    Where most features point one way, nearly all cosines are positive and no cut is cheap; a power
    above 1 keeps like pixels together and lets the others go.
    """

    def __init__(self, cosines: Array, size: Size, power: float) -> None:
        # Not the operator's: few cells, so the matrix itself is built.
        self.xp = xp = array_module(cosines)
        self.size = size
        self.n = self.rank = len(cosines)
        self._matrix = (xp.maximum(cosines, 0) ** power).astype("float64")

    def matvec(self, v: Array) -> Array:
        """max(S, 0)^power v for v (n,), or for each row of v (m, n)."""
        result: Array = v @ self._matrix  # symmetric
        return result


def cosines(features: Sequence[Grid], side: int = CELLS_SIDE) -> tuple[Array, Size]:
    """S (n, n) float32 between the cells of the finest level, at most `side` a side, and how many
    (rows, columns) they are."""
    xp = array_module(features[0].values)
    finest = max(features, key=lambda level: level.size)
    rows, columns = (
        min(side, max(1, round(n * share)))
        for n, share in zip(finest.size, finest.extent, strict=True)
    )
    f = xp.concatenate([resize(level, (rows, columns)) for level in features])
    f = f.reshape(len(f), -1)
    norms = xp.sqrt((f * f).sum(axis=0))
    f = f / xp.maximum(norms, max(CANCELLED * float(norms.max()), NORM_FLOOR))
    return f.T @ f, (rows, columns)


def rescaled(cosines: Array, power: float = 1.0) -> Array:
    """((S − min S)/(max S − min S))^power of cosines (n, n), same shape and type, with ones on the
    diagonal; ones throughout where all cosines are equal."""
    xp = array_module(cosines)
    low, high = cosines.min(), cosines.max()
    if float(high - low) <= EQUAL:
        return xp.ones_like(cosines)  # type: ignore[no-any-return]
    shares = cosines - low
    shares /= high - low
    shares = raised(shares, power)
    xp.fill_diagonal(shares, 1)  # a cell without features is like itself too
    return shares


def raised(values: Array, power: float) -> Array:
    """Values to a power above 0, of the same shape and type; the values given may be overwritten.

    A whole power is had by products: among zeros, NumPy's own takes five times as long.
    """
    if power != int(power):
        values **= values.dtype.type(power)
        return values
    left = int(power)
    while left % 2 == 0:
        values *= values
        left //= 2
    result = values if left == 1 else values.copy()
    while left := left // 2:
        values *= values
        if left % 2:
            result *= values
    return result


class _Level:
    """U_l K_l U_lᵀ; K_l is held where it is the smaller thing, otherwise applied as F_lᵀ F_l.

    In float64: division by a small norm magnifies the rounding of K_l twice.
    """

    def __init__(self, level: Grid, size: Size) -> None:
        channels, pixels = level.flat.shape
        features = level.flat.astype("float64")
        self.resize = Resize(level, size, "float64")
        gram = pixels <= channels
        self.factors = [features.T @ features] if gram else [features.T, features]

    def apply(self, v: Array) -> Array:
        """For v (m, H, W) float64; same shape."""
        low = self.resize.back(v)
        flat = low.reshape(len(v), -1)
        for factor in self.factors:
            flat = flat @ factor
        return self.resize.up(flat.reshape(low.shape))
