"""Assignment of every pixel to its nearest prototype (Eq. 6), with scores formed low.

⟨f, f̄_c⟩ = Σ_l U_l (F_lᵀ f̄_{c,l}): one low-resolution score map a class and level, resized and
summed. ‖f‖ does not change which class wins, so only confidences need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import cuda
from .grid import Array, Grid, Mode, Size, array_module, check_classes, label_type, on_gpu
from .norms import NORM_FLOOR, pixel_norms
from .resize import Resize, bands, grid_stencils
from .rivals import Tile, highest

NEVER = -1e30
"""A score below every other: resized, summed over levels and divided by ‖f‖ it stays so."""

TILE_VALUES = 1 << 18
"""Scores of a tile, over all classes (1 MiB of float32): stays in a core's cache."""
TILE_COLUMNS = 128
"""Columns of a tile: few enough that it touches only a few low-resolution columns."""
_MIXED = 16
"""Classes whose maps join in at a time."""
LONG = 256
"""Classes from which on it pays to find out which can win where, even if that is nearly all."""


@dataclass(frozen=True)
class Assignment:
    """What every pixel was assigned to."""

    labels: Array
    """(H, W) uint8, or uint16 for more than 255 classes; the first class wins a tie."""
    confidence: Array | None
    """(H, W) float32, the winning score: divided by ‖f‖, None unless norms were given, or filtered
    along edges.

    Mode "paper": the cosine of Eq. 6, in [−1, 1]. Mode "released": that cosine times the length
    of the prototype, which is at most 1 and shorter the more the features of the class differ.
    """


def score_maps(
    features: Sequence[Grid], prototypes: Sequence[Array], mode: Mode = "paper"
) -> list[Grid]:
    """F_lᵀ f̄_{c,l} per level: grids of (classes, h_l, w_l) float32 with the features' extents.

    Mode "paper" divides by ‖f̄_c‖ over all levels, so that the resized sum over ‖f‖ is the cosine
    of Eq. 6; mode "released" leaves prototypes as they are.
    """
    check_classes("prototypes", prototypes, [level.values for level in features])
    if mode == "paper":
        xp = array_module(prototypes[0])
        lengths = xp.sqrt(sum((part * part).sum(axis=1) for part in prototypes))
        scale = 1 / xp.maximum(lengths, NORM_FLOOR)[:, None]
        prototypes = [part * scale for part in prototypes]
    elif mode != "released":
        raise ValueError(f"mode {mode!r} is not one of paper, released")
    return [
        Grid((part @ level.flat).reshape(len(part), *level.size), level.extent)
        for level, part in zip(features, prototypes, strict=True)
    ]


def never(scores: Sequence[Grid], out: Array) -> list[Grid]:
    """Scores in which the classes of the mask `out` (classes,) bool win nowhere.

    Finite, for a resize multiplies some of them by zero.
    """
    xp = array_module(out)
    return [
        Grid(xp.where(out[:, None, None], NEVER, level.values).astype("float32"), level.extent)
        for level in scores
    ]


def fine_scores(
    scores: Sequence[Grid],
    features: Sequence[Grid],
    size: Size,
    maps: Grid | None = None,
    attention: float = 0.0,
) -> Array:
    """The cosines of Eq. 6 on a small grid, (classes, *size) float32, mixed with the class maps.

    `maps` (classes, gh, gw) in [0, 1] have the share `attention` in [0, 1], the cosines the rest:
    a prototype mixes what lies under all of a map, the map says what the word says of a place.
    """
    fine = full_scores(scores, size, pixel_norms(features, size))
    if maps is not None and attention:
        fine *= 1 - attention
        up = Resize(maps, size)
        for start in range(0, len(fine), _MIXED):  # all scores can be larger than the picture
            own = slice(start, start + _MIXED)
            mapped = up.up(maps.values[own])
            mapped *= attention
            fine[own] += mapped
    return fine


def assign(scores: Sequence[Grid], size: Size, norms: Array | None = None) -> Assignment:
    """The class of the highest score at each output pixel; scores of all are never held at once.

    `scores` come from `score_maps`; `norms` (H, W) from `pixel_norms`, if a confidence is wanted.
    """
    _check_scores(scores)
    if on_gpu(scores[0].values):
        return Assignment(*cuda.labels(scores, size, norms))
    xp = array_module(scores[0].values)
    classes = len(scores[0].values)
    labels = xp.zeros(size, dtype=label_type(classes))
    confidence = None if norms is None else xp.empty(size, dtype="float32")
    for tile, winners, best in (highest if classes >= LONG else _highest)(scores, size):
        labels[tile] = winners
        if confidence is not None and norms is not None:
            confidence[tile] = best / norms[tile]
    return Assignment(labels, confidence)


def _highest(scores: Sequence[Grid], size: Size) -> Iterator[Tile]:
    """As `highest`, of a list so short that all its classes are scored everywhere."""
    xp = array_module(scores[0].values)
    for tile, block in score_tiles(scores, size):
        best = block.max(axis=0)
        winners = xp.zeros(best.shape, dtype=label_type(len(block)))
        for label in range(len(block) - 1, -1, -1):  # the first class writes last: it wins ties
            xp.copyto(winners, winners.dtype.type(label), where=block[label] == best)
        yield tile, winners, best


def full_scores(scores: Sequence[Grid], size: Size, norms: Array) -> Array:
    """Every class's score over ‖f‖ at every output pixel, (classes, H, W) float32."""
    _check_scores(scores)
    xp = array_module(scores[0].values)
    full = xp.empty((len(scores[0].values), *size), dtype="float32")
    for (rows, columns), block in score_tiles(scores, size):
        full[:, rows, columns] = block / norms[rows, columns]
    return full  # type: ignore[no-any-return]


def _check_scores(scores: Sequence[Grid]) -> None:
    values = [level.values for level in scores]
    check_classes("scores", values, values)


def score_tiles(scores: Sequence[Grid], size: Size) -> Iterator[tuple[tuple[slice, slice], Array]]:
    """Yield ((rows, columns), Σ_l U_l S_l on that tile as (classes, rows, columns)).

    Rows are interpolated first; columns of all levels then are one matrix product a tile,
    [S_1 | S_2 | …] [R_x1 | R_x2 | …]ᵀ, over only those low-resolution columns the tile touches.
    """
    xp = array_module(scores[0].values)
    heights, widths = zip(*(grid_stencils(level, size) for level in scores), strict=True)
    across = bands(widths, TILE_COLUMNS, xp)

    classes = len(scores[0].values)
    step = max(1, TILE_VALUES // (classes * min(TILE_COLUMNS, size[1])))
    down = [bands([rows], step, xp) for rows in heights]
    for blocks in zip(*down, strict=True):
        tall = xp.concatenate(
            [
                block.matrix @ level.values[:, block.inputs]
                for block, level in zip(blocks, scores, strict=True)
            ],
            axis=2,
        )  # (classes, block, Σ w_l)
        for strip in across:
            part = tall[:, :, strip.inputs].reshape(-1, strip.matrix.shape[1]) @ strip.matrix.T
            yield (blocks[0].outputs, strip.outputs), part.reshape(classes, -1, len(strip.matrix))
