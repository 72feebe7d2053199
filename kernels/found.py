"""How many segments a picture has: as many as keep their affinity to themselves.

Cosines are compared with the picture's own mean: of features whose mean is taken away, like cells
stay alike and parts turn away from one another, however much all of a model's features have in
common. A high power of these leaves every cell its nearest kin. A cut is right where it crosses
little of that, so k grows from one while every segment of the spectral clustering keeps nearly all
of it: a normalised cut (Shi and Malik 2000), asked of each segment instead of the sum. What was
tried, and how this compares with fixed numbers, is in docs/notes/auto.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from .affinity import CellAffinity
from .grid import Array, Grid, array_module
from .kmeans import COINCIDENT, lloyd
from .spectral import NULL_AFFINITY, finite_cosines, normalised_rows, spectral_embedding

CELLS = 24
"""Most cells a side that are looked at: they cost milliseconds, and finer ones find no more."""

CLUSTERED = 8.0
"""Power of the cosines that are clustered."""

COMPARED = 12.0
"""Power of the cosines about the mean that a segment has to keep."""

LEAK = 0.12
"""Most of them that a segment may share with others. Chosen, with the powers, on half of the real
pictures and on scenes of their own; 0.10 to 0.16 do about as well."""

UNIFORM = 0.02
"""A picture is one segment if its normalised features vary less than this about their mean. Those
of a ViT-S/14 vary by 0.004 to 0.01 over one colour or noise, and by 0.1 to 0.7 over photographs."""


def found(features: Sequence[Grid], most: int) -> int:
    """The number of segments, from 1 to `most`; the same for a mirrored picture.

    Raises SpectralError if the features hold NaN or infinity.
    """
    plain, size = finite_cosines(features, CELLS)
    if uniform(plain):
        return 1
    xp = array_module(plain)
    centred = plain.astype("float64")
    means = centred.mean(axis=0)
    centred += means.mean() - means - means[:, None]
    squares = centred.diagonal().copy()
    lengths = xp.sqrt(xp.maximum(squares, UNIFORM * float(squares.mean())))
    kin = xp.maximum(centred / lengths / lengths[:, None], 0) ** COMPARED
    xp.fill_diagonal(kin, 0)  # a cell's own does not tell who belongs together
    affinity = CellAffinity(plain, size, CLUSTERED)
    most = min(most, affinity.n)
    embedded, k = 0, 1
    while k < most:
        if k + 1 > embedded:  # few pictures need all eigenvectors
            embedded = min(most, 2 * (k + 1))
            eigenvalues, vectors = spectral_embedding(affinity, embedded)
        informative = eigenvalues[: k + 1] < 1 - NULL_AFFINITY
        labels = _cut(normalised_rows(vectors[:, : k + 1][:, informative]), k + 1)
        if labels is None or leak(kin, labels, k + 1) > LEAK:
            break
        k += 1
    return k


def uniform(cosines: Array) -> bool:
    """Whether features with the cosines (n, n) vary too little to be told apart."""
    mean = cosines.mean(dtype="float64")  # the squared length of the normalised features' mean
    return float(cosines.diagonal().mean(dtype="float64") - mean) < UNIFORM


def leak(affinity: Array, labels: Array, k: int) -> float:
    """The largest share of a segment's affinity (n, n) that goes to others; 1 if it has none."""
    xp = array_module(affinity)
    members = (labels == xp.arange(k)[:, None]).astype(affinity.dtype)
    between = members @ affinity @ members.T
    total = between.sum(axis=1)
    kept = between.diagonal() / xp.where(total > 0, total, 1)
    return 1 - float(kept.min())


def _cut(points: Array, k: int) -> Array | None:
    """Labels (n,) by Lloyd's iterations from the point farthest from the mean, then each time the
    one farthest from those chosen, which no order of the points changes; None where fewer than k
    are distinct."""
    xp = array_module(points)
    squares = (points * points).sum(axis=1)
    away = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    chosen: list[int] = []
    nearest = xp.full(len(points), xp.inf)
    while len(chosen) < k:
        farthest = int((nearest if chosen else away).argmax())
        if float(nearest[farthest]) <= COINCIDENT * float(squares.max()):
            return None
        chosen.append(farthest)
        nearest = xp.minimum(nearest, ((points - points[farthest]) ** 2).sum(axis=1))
    return lloyd(lambda rows: (rows @ points) @ points.T, squares, chosen).labels
