"""Class prototypes f̄_c = Σ a_c f / Σ a_c (Eq. 5) by the adjoint of the resize.

With f_l = U_l F_l and a_c = V A_c, the sum over the output grid is F_l (U_lᵀ V A_c): the class
maps are brought to the feature level, and no full-resolution feature is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cpu.upsampled import has_upsampled, overlap
from .grid import Array, Grid, Mode, Size, array_module, on_gpu
from .norms import pixel_norms
from .resize import Banded, bands, grid_stencils

BLOCK_VALUES = 1 << 22
"""Full-resolution values held at a time in mode "released" (16 MiB of float32)."""
BAND_COLUMNS = 128
"""Output columns brought down together: few enough to touch only a few low-resolution ones."""


def prototypes(
    features: Sequence[Grid],
    weights: Grid,
    size: Size,
    mode: Mode = "paper",
    norms: Array | None = None,
) -> list[Array]:
    """The prototype of each class at each level, a list of (classes, d_l) float32.

    `weights` are the class maps a_c (classes, gh, gw), not negative, on a grid of their own; the
    averages run over the output grid `size`. Mode "paper" averages f as Eq. 5 is written; mode
    "released" averages f / ‖f‖, for which `norms` (H, W) can be given if already computed.

    A class whose map is zero on the whole output grid gets a prototype of zeros: its score is 0.
    """
    brought_down, total = (
        _brought_down(features, weights, size, mode, norms),
        _weight(weights, size),
    )
    total = array_module(total).where(total > 0, total, 1)
    return [
        (low.reshape(len(low), -1) / total) @ level.flat.T
        for level, low in zip(features, brought_down, strict=True)
    ]


def prototype_sums(
    features: Sequence[Grid],
    weights: Grid,
    size: Size,
    mode: Mode = "paper",
    norms: Array | None = None,
) -> tuple[list[Array], Array]:
    """Both sums of Eq. 5, which add up over the parts of one picture: Σ a_c f at each level, a list
    of (classes, d_l) float32, and Σ a_c, (classes, 1). Arguments as for `prototypes`."""
    brought_down = _brought_down(features, weights, size, mode, norms)
    sums = [
        low.reshape(len(low), -1) @ level.flat.T
        for level, low in zip(features, brought_down, strict=True)
    ]
    return sums, _weight(weights, size)


def _brought_down(
    features: Sequence[Grid], weights: Grid, size: Size, mode: Mode, norms: Array | None
) -> list[Array]:
    """The class maps at the feature levels, (classes, h_l, w_l) each."""
    if mode == "paper":
        return _plain_weights(features, weights, size)
    if mode == "released":
        if norms is None:
            norms = pixel_norms(features, size)
        return _normalised_weights(features, weights, size, norms)
    raise ValueError(f"mode {mode!r} is not one of paper, released")


def _weight(weights: Grid, size: Size) -> Array:
    """Σ a_c over the output grid, (classes, 1)."""
    xp = array_module(weights.values)
    rows, columns = (xp.asarray(t.sums.astype("float32")) for t in grid_stencils(weights, size))
    return ((weights.values @ columns) @ rows)[:, None]  # type: ignore[no-any-return]


def _plain_weights(features: Sequence[Grid], weights: Grid, size: Size) -> list[Array]:
    """U_lᵀ V A = (R_yᵀ V_y) A (R_xᵀ V_x)ᵀ per level, (classes, h_l, w_l)."""
    xp = array_module(weights.values)
    from_weights = grid_stencils(weights, size)
    brought_down = []
    for level in features:
        rows, columns = (
            Banded(to_level.overlap(stencil), xp)
            for to_level, stencil in zip(grid_stencils(level, size), from_weights, strict=True)
        )
        brought_down.append(rows.down(columns.across(weights.values)))
    return brought_down


def _normalised_weights(
    features: Sequence[Grid], weights: Grid, size: Size, norms: Array
) -> list[Array]:
    """U_lᵀ (V A / ‖f‖) per level, (classes, h_l, w_l), summed over blocks of output rows."""
    if has_upsampled() and not on_gpu(weights.values):
        return [overlap(weights, level, norms) for level in features]
    xp = array_module(weights.values)
    classes = len(weights.values)
    rows, columns = grid_stencils(weights, size)
    wide = Banded(columns, xp).across(weights.values)  # (classes, gh, W)
    heights, widths = zip(*(grid_stencils(level, size) for level in features), strict=True)
    across = bands(widths, BAND_COLUMNS, xp)
    ends = np.cumsum([level.size[1] for level in features])
    totals = [xp.zeros((classes, *level.size), dtype="float32") for level in features]
    step = max(1, BLOCK_VALUES // (classes * size[1]))
    down = [bands([stencil], step, xp) for stencil in (rows, *heights)]
    for block, *back in zip(*down, strict=True):
        scaled = (block.matrix @ wide[:, block.inputs]) / norms[block.outputs]
        narrow = xp.zeros((classes, len(block.matrix), int(ends[-1])), dtype="float32")
        for band in across:
            narrow[:, :, band.inputs] += scaled[:, :, band.outputs] @ band.matrix
        for total, own, end in zip(totals, back, ends, strict=True):
            part = narrow[:, :, end - total.shape[2] : end]
            total[:, own.inputs] += own.matrix.T @ part
    return totals
