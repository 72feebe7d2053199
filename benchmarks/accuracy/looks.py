"""What every method reads: a picture's latents, and what the UNet shows of them at a timestep.

Everything is computed when it is first asked for and kept as long as the picture is worked on, so
that one pass of a network serves every method and every choice of strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid, Mode, Pooling, Size
from ...runtime.look import tiles
from ...runtime.look.network import EncodedText, Network, Seen
from ...runtime.look.prompts import ClassName
from ...runtime.look.tiles import Canvas

_T = TypeVar("_T")


@dataclass
class Look:
    """One picture on its way through every method.

    Attributes:
        network: the loaded bundle.
        image: (H, W, 3) uint8 RGB.
    """

    network: Network
    image: NDArray[np.uint8]
    _kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        return self.image.shape[0], self.image.shape[1]

    @property
    def canvas(self) -> Canvas:
        """Where the picture's tiles lie."""
        manifest, least = self.network.manifest, self.network.backend.least
        return tiles.plan(self.size, manifest.native_size, manifest.size_multiple, least=least)

    @property
    def square(self) -> Canvas:
        """The whole picture as one tile, as `released` attention and DiffSeg see it."""
        return tiles.squash(self.size, self.network.manifest.native_size)

    def features(
        self, timestep: int, classes: Sequence[ClassName] | None, strides: Sequence[int] | None
    ) -> list[Grid]:
        """F_l of the strides asked for (None: all) with a prompt of `classes` (None: empty)."""
        declared = self.network.manifest.features
        seen = self._see(self.canvas, timestep, classes)
        return [
            grid
            for output, grid in zip(declared, seen.features, strict=True)
            if strides is None or output.stride in strides
        ]

    def class_maps(
        self,
        timestep: int,
        classes: Sequence[ClassName],
        pooling: Pooling,
        strides: Sequence[int] | None,
        mode: Mode = "paper",
    ) -> Grid:
        """a_c from the layers of the strides asked for (None: all), as the mode has them."""
        canvas, grid = self._attention(mode)
        logits = self._logits(timestep, classes, pooling, strides, mode)
        prompts = self.network.encode_text(classes).prompts
        maps = kernels.class_maps(logits, prompts.owner, len(prompts.classes), pooling, grid)
        return Grid(maps, canvas.extent)

    def won_shares(
        self,
        timestep: int,
        classes: Sequence[ClassName],
        strides: Sequence[int] | None,
        mode: Mode = "paper",
    ) -> Array:
        """(classes,) share of the attention's cells that each class wins; as `class_maps`."""
        logits = self._logits(timestep, classes, "softmax", strides, mode)
        prompts = self.network.encode_text(classes).prompts
        grid = self._attention(mode)[1]
        return kernels.won_shares(logits, prompts.owner, len(prompts.classes), grid)

    def _attention(self, mode: Mode) -> tuple[Canvas, Size | None]:
        """Where a mode sees attention, and the common grid of its maps (None: the largest)."""
        if mode == "paper":
            return self.canvas, None
        return self.square, tiles.squash_grid(self.network.manifest.native_size)

    def _logits(
        self,
        timestep: int,
        classes: Sequence[ClassName],
        pooling: Pooling,
        strides: Sequence[int] | None,
        mode: Mode,
    ) -> list[Array]:
        """Of the layers of the strides asked for; with softmax their probabilities."""
        canvas, _ = self._attention(mode)
        seen = self._see(canvas, timestep, classes, pooling == "softmax", noise=mode == "paper")
        declared = self.network.manifest.attention
        return [
            layer
            for output, layer in zip(declared, seen.logits, strict=True)
            if strides is None or output.stride in strides
        ]

    def self_attention(self, timestep: int) -> tuple[Array, ...]:
        """(pixels, pixels) of every self-attention layer that the bundle returns, of the picture
        as one square and the empty prompt."""
        return self._see(self.square, timestep, None, self_attention=True).self_attention

    def norms(self, features: Sequence[Grid]) -> Array:
        """‖f‖ at every pixel of the picture, kept for the same features."""
        key = ("norms", *(id(grid.values) for grid in features))
        return self._keep(key, lambda: kernels.pixel_norms(features, self.size))

    def _see(
        self,
        canvas: Canvas,
        timestep: int,
        classes: Sequence[ClassName] | None,
        probabilities: bool = False,
        self_attention: bool = False,
        noise: bool = True,
    ) -> Seen:
        text: EncodedText = self.network.encode_text(classes)
        z = self._keep(("z", canvas), lambda: self.network.encode(self.image, canvas))
        probabilities = probabilities and classes is not None
        names = None if classes is None else tuple(classes)
        key = ("seen", canvas, timestep, names, probabilities, self_attention, noise)
        return self._keep(
            key,
            lambda: self.network.denoise(
                canvas,
                z,
                text,
                timestep,
                noise=noise,
                features=not self_attention,
                probabilities=probabilities,
                self_attention=self_attention,
            ),
        )

    def _keep(self, key: Any, make: Callable[[], _T]) -> _T:
        if key not in self._kept:
            self._kept[key] = make()
        kept: _T = self._kept[key]
        return kept
