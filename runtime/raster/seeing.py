"""What the networks show of a block, and the taps that heads read it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ..heads import Head
from ..heads.maps import view
from ..heads.options import HeadOptions
from ..look.clock import StageClock
from ..look.network import Network
from ..look.taps import Taps
from ..look.tiles import RELEASED_CELL, Canvas
from ..look.words import EncodedText


class BlockTaps(Taps):
    """A block: a picture whose tiles are given, each of which is a square of its own."""

    def __init__(
        self,
        network: Network,
        image: NDArray[np.uint8],
        clock: StageClock,
        canvas: Canvas | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__(network, image, clock, progress=progress)
        if canvas is not None:
            self.canvas = self.square = canvas


class SampledTaps(Taps):
    """Cells from all over a raster, beside one another as if they were a picture of it."""

    def __init__(
        self,
        network: Network,
        colours: NDArray[np.uint8],
        clock: StageClock,
        sampled: Sequence[Grid],
    ) -> None:
        super().__init__(network, colours, clock)
        self._sampled = list(sampled)

    def features(self, *_: Any, **__: Any) -> list[Grid]:
        """Those that were sampled, whichever are asked for: no others were seen."""
        return self._sampled


def levels(network: Network, head: Head, options: HeadOptions) -> dict[str, tuple[int, int]]:
    """The features that a head reads: name → stride and channels."""
    if "features" not in head.taps:
        return {}
    manifest = network.manifest
    encoder = getattr(options, "features", "decoder") == "encoder"
    strides: tuple[int, ...] | None = getattr(options, "feature_strides", None)
    return {
        level.name: (level.stride, level.channels)
        for level in (manifest.encoder if encoder else manifest.features)
        if encoder or strides is None or level.stride in strides
    }


def map_cell(network: Network, options: Any) -> int:
    """Pixels of a cell that class maps are brought to."""
    if options.mode == "released":
        return RELEASED_CELL
    strides = options.attention_strides
    declared = network.manifest.attention
    return min(a.stride for a in declared if strides is None or a.stride in strides)


def features_of(taps: Taps, options: Any, text: EncodedText | None) -> list[Array]:
    """F_l as the head reads them, (channels, rows, columns) each."""
    if text is None:
        return [grid.values for grid in taps.features(text=taps.empty, **options.seen)]
    drives = taps.empty if options.mode == "released" or options.words == "late" else text
    found = taps.features(options.timestep, drives, options.feature_strides)
    return [grid.values for grid in found]


def maps_of(taps: Taps, options: Any, text: EncodedText, cell: int) -> Array:
    """(classes, rows, columns) class maps that those of other blocks compare with: of pooling exp
    their logarithms."""
    logits = taps.logits(text=text, **view(taps, options))
    owner, count = text.prompts.owner, len(text.prompts.classes)
    grid = taps.canvas.size[0] // cell, taps.canvas.size[1] // cell
    with taps.stage("attention"):
        maps, scale = kernels.class_totals(logits, owner, count, options.pooling, grid)
        if options.pooling != "exp":
            return maps
        xp = kernels.array_module(maps)
        return xp.log(xp.maximum(maps, np.finfo("float32").tiny)) + scale[:, None, None]  # type: ignore[no-any-return]
