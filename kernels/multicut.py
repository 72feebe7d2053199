"""Segments by a normalised cut into k at once, without eigenvectors (Falcon, ICLR 2026,
arXiv 2504.05613).

    f(X) = Σ_k (x_kᵀ W x_k)/(x_kᵀ D x_k),    D = diag(W 1),    one-hot rows of X

is made larger by proximal steps: of the gradient, M = 2 (W X diag(1/v) − D X diag(q/v²)) with q and
v the two forms, every cell takes the segment with the largest M + τ X; a step is kept if f grows by
enough, else τ grows. What the paper leaves open, how X and τ start, W and k, is chosen here, once
for all pictures: segments start as the blocks of a grid, and of the segments that these become the
two that lose least by it are merged until k are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .affinity import raised
from .found import found
from .grid import Array, Grid, Size, array_module
from .segments import MAX_SEGMENTS, check_segments, in_order_of_appearance
from .spectral import finite_cosines

CENTRED = 0.6
"""Share of the mean that is taken from the normalised features before they are compared. With the
power, of about ten pairs the best for all of five sets of photographs seen by a ViT-S/14."""

POWER = 5.0
"""Power of their cosines."""

BLOCKS = 6
"""Blocks a side that segments start as; more where more segments are asked for."""

SECOND = 0.1
"""The second τ, as a share of the largest |M|; the first is 0."""

GROWTH = 2.0
"""Of τ, each time after."""

ENOUGH = 1e-3
"""A step of size s = ‖X′ − X‖² has to make f larger by this times τ s/2."""

SWEEPS = 30
"""Most steps kept."""

ALIKE = 1e-5
"""A union that lowers f by less is one of like cells."""

SHORT = 1e-6
"""Squared lengths below this are of features without a direction."""


def multicut(
    features: Sequence[Grid],
    segments: int | Literal["auto"] = "auto",
    max_segments: int = MAX_SEGMENTS,
) -> tuple[Array, int]:
    """Segment labels (rows, columns) int64 of the finest level's cells, and their number k.

    Labels lie in [0, k), numbered as they first appear from the top left. "auto" finds k in the
    features (`found`). k is lower than asked for where cells have fewer distinct features.
    """
    check_segments(segments)
    k = found(features, max_segments) if segments == "auto" else segments
    alike, size = finite_cosines(features)
    weights = sharpened(alike)
    labels = _settled(weights, array_module(weights).asarray(blocks(size, k)))
    labels = _settled(weights, merged(weights, labels, k))
    return labels.reshape(size), int(labels.max()) + 1


def _settled(weights: Array, labels: Array) -> Array:
    """What proximal steps make of labels (n,), numbered as they first appear."""
    return in_order_of_appearance(proximal_cut(weights, labels, int(labels.max()) + 1)[0])


def sharpened(cosines: Array, centred: float = CENTRED, power: float = POWER) -> Array:
    """max(S′, 0)^power (n, n) float32, S′ the cosines of normalised features of which a share of
    their mean was taken away, from the cosines S (n, n) of those."""
    xp = array_module(cosines)
    means = centred * cosines.mean(axis=1, dtype="float64")
    shift = (means - centred * means.mean() / 2).astype(cosines.dtype)
    weights = cosines - shift[:, None]
    weights -= shift
    lengths = xp.sqrt(xp.maximum(weights.diagonal(), SHORT))
    weights /= lengths[:, None]
    weights /= lengths
    xp.maximum(weights, 0, out=weights)
    weights = raised(weights, power)
    xp.fill_diagonal(weights, 1)
    return weights


def blocks(size: Size, k: int) -> NDArray[np.int64]:
    """Labels (n,) of a grid's cells by the blocks of a coarser grid, at least k where there are as
    many cells, those of the mirrored grid mirrored."""
    side = max(BLOCKS, int(np.ceil(np.sqrt(k))))
    rows, columns = (_in_runs(n, side) for n in size)
    return np.asarray((rows[:, None] * (columns[-1] + 1) + columns).ravel())


def _in_runs(n: int, runs: int) -> NDArray[np.int64]:
    """0, 0, …, 1, 1, … (n,), at least so many runs of about equal length, the same backwards."""
    runs = min(n, runs + (n - runs) % 2)  # an odd n has a middle, so it needs a middle run
    left = np.arange((n + 1) // 2) * runs // n
    return np.concatenate([left, runs - 1 - left[: n // 2][::-1]])


@dataclass(frozen=True)
class Step:
    """Segments, and what of them the next step needs."""

    labels: Array
    """(n,) int64 in [0, k)."""
    members: Array
    """X, (k, n) float32."""
    image: Array
    """X W, (k, n) float32."""
    kept: Array
    """q (k,) float64, a segment's affinity to itself."""
    volume: Array
    """v (k,) float64, its affinity to all."""
    value: float
    """f."""

    @classmethod
    def of(cls, labels: Array, members: Array, image: Array, degrees: Array) -> Step:
        """With both forms and f."""
        xp = array_module(image)
        kept = (image * members).sum(axis=1, dtype="float64")
        volume = members @ degrees
        value = float((kept / xp.where(volume > 0, volume, 1)).sum())
        return cls(labels, members, image, kept, volume, value)


def proximal_cut(weights: Array, labels: Array, k: int) -> tuple[Array, list[float]]:
    """Labels (n,) int64 from `labels` in [0, k), and f of the start and of every step kept.

    A segment that becomes empty stays so.

    Args:
        weights: W (n, n) floating point, symmetric and not negative, of a positive diagonal.
    """
    xp = array_module(weights)
    degrees = weights.sum(axis=1, dtype="float64")
    members = (labels == xp.arange(k)[:, None]).astype(weights.dtype)
    step = Step.of(labels, members, members @ weights, degrees)
    values, tau = [step.value], 0.0
    while len(values) <= SWEEPS:
        gradient = _gradient(step, degrees)
        while True:
            labels = (gradient + tau * step.members).argmax(axis=0)
            moved = xp.flatnonzero(labels != step.labels)
            if not len(moved):
                return step.labels, values
            after = _moved(weights, degrees, step, labels, moved)
            if after.value >= step.value + ENOUGH * tau * len(moved):  # ‖X′ − X‖² is 2 a cell
                break
            tau = GROWTH * tau or SECOND * float(abs(gradient[step.volume > 0]).max())
            if not tau:  # no cell has an affinity to another
                return step.labels, values
        step = after
        values.append(step.value)
    return step.labels, values


def _gradient(step: Step, degrees: Array) -> Array:
    """M (k, n) float64, −∞ for an empty segment."""
    xp = array_module(degrees)
    volume = xp.where(step.volume > 0, step.volume, 1)[:, None]
    gradient = 2 * (step.image / volume - step.members * degrees * step.kept[:, None] / volume**2)
    return xp.where(step.volume[:, None] > 0, gradient, -xp.inf)  # type: ignore[no-any-return]


def _moved(weights: Array, degrees: Array, step: Step, labels: Array, moved: Array) -> Step:
    """The segments after some cells moved to others: X W changes by these cells' rows alone."""
    xp = array_module(weights)
    members = (labels == xp.arange(len(step.members))[:, None]).astype(weights.dtype)
    change = (members - step.members).take(moved, 1)
    return Step.of(labels, members, step.image + change @ weights.take(moved, 0), degrees)


def merged(weights: Array, labels: Array, k: int) -> Array:
    """Labels (n,) in [0, k): the two segments whose union lowers f least become one, until k are
    left and no union is for nothing.

    No segment is empty.
    """
    xp, count = array_module(weights), int(labels.max()) + 1
    members = (labels == xp.arange(count)[:, None]).astype(weights.dtype)
    between = np.array(((members @ weights) @ members.T).tolist())  # few numbers: on the host
    number = np.arange(count)
    while len(between) > 1:
        volume, kept = between.sum(axis=1), between.diagonal()
        share = kept / volume
        union = kept[:, None] + kept + 2 * between
        loss = share[:, None] + share - union / (volume[:, None] + volume)
        loss[np.tril_indices(len(loss))] = np.inf
        one, other = np.unravel_index(loss.argmin(), loss.shape)
        if len(between) <= k and loss[one, other] > ALIKE:
            break
        between[one] += between[other]
        between[:, one] += between[:, other]
        between = np.delete(np.delete(between, other, 0), other, 1)
        number[number == other] = one
        number[number > other] -= 1
    return xp.asarray(number)[labels]  # type: ignore[no-any-return]
