"""What the networks show of one picture, for heads to read.

Everything is computed when it is first asked for and kept, so that one pass of a network serves
every head, every choice of strides and, where the words do not drive it, every list of words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid, Size
from ..bundle.contract import AttentionOutput, FeatureOutput
from . import tiles
from .clock import StageClock
from .kept import Kept
from .network import Network
from .tiles import Canvas
from .words import EncodedText

KEPT_BYTES: Final = 1 << 30
"""Of a look, before what was used longest ago gives way: some 50 pictures of 512²."""


class Taps:
    """One picture, and what was seen of it so far.

    Attributes:
        network: the loaded bundle.
        image: (H, W, 3) uint8 RGB.
        canvas: where the picture's tiles lie.
        square: the whole picture as one tile, as `released` attention and DiffSeg see it.
    """

    def __init__(
        self,
        network: Network,
        image: NDArray[np.uint8],
        clock: StageClock,
        max_size: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        most_bytes: int = KEPT_BYTES,
    ) -> None:
        manifest, least = network.manifest, network.backend.least
        self.network, self.image = network, image
        self.canvas = tiles.plan(
            self.size, manifest.native_size, manifest.size_multiple, max_size, least
        )
        self.square = tiles.squash(self.size, manifest.native_size)
        self._clock, self._progress, self._kept = clock, progress, Kept(most_bytes)

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def empty(self) -> EncodedText:
        """The empty prompt."""
        with self.stage("text"):
            return self.network.words.encode(None)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a block as a stage of the call under way."""
        return self._clock.stage(name)

    def features(
        self, timestep: int, text: EncodedText, strides: Sequence[int] | None = None
    ) -> list[Grid]:
        """F_l of the strides asked for (None: all), of the pass that a text drives."""
        key = ("features", timestep, text.key)
        found: tuple[Grid, ...] | None = self._kept.get(key)
        if found is None:
            z = self._latents(self.canvas)
            with self.stage("unet"):
                seen = self.network.denoise(self.canvas, z, text, timestep, progress=self._progress)
            found = seen.features
            self._kept.put(key, found)
        return _of_strides(self.network.manifest.features, found, strides)

    def logits(
        self,
        canvas: Canvas,
        timestep: int,
        text: EncodedText,
        strides: Sequence[int] | None = None,
        *,
        probabilities: bool = False,
        noise: bool = True,
        late: bool = False,
    ) -> list[Array]:
        """Of the layers of the strides asked for (None: all), for a text's class tokens.

        Args:
            canvas: `canvas` or `square`.
            timestep: index into ᾱ, what the network is told.
            text: names.
            strides: image pixels per cell.
            probabilities: softmax over the tokens of all prompts.
            noise: whether the latent is noised to the timestep.
            late: whether the empty prompt drives the pass, not the names' prompts.

        Returns:
            (heads, tokens, rows, columns) float32 a layer.
        """
        key = ("logits", canvas, timestep, text.key, probabilities, noise, late)
        found: tuple[Array, ...] | None = self._kept.get(key)
        if found is None and late:
            queries = self._queries(canvas, timestep, noise)
            with self.stage("text"):
                self.network.words.keys(text)
            with self.stage("attention"):
                found = self.network.attend(canvas, queries, text, probabilities)
            self._kept.put(key, found)
        elif found is None:
            z = self._latents(canvas)
            with self.stage("unet"):
                seen = self.network.denoise(
                    canvas,
                    z,
                    text,
                    timestep,
                    noise=noise,
                    features=noise,  # of the same pass; nobody reads them without noise
                    probabilities=probabilities,
                    progress=self._progress,
                )
            found = seen.logits
            self._kept.put(key, found)
            if noise and canvas == self.canvas:
                self._kept.put(("features", timestep, text.key), seen.features)
        return _of_strides(self.network.manifest.attention, found, strides)

    def self_attention(self, timestep: int) -> tuple[Array, ...]:
        """(pixels, pixels) float32 of every self-attention layer that the bundle gives out, of the
        picture as one square and the empty prompt."""
        key = ("self-attention", timestep)
        found: tuple[Array, ...] | None = self._kept.get(key)
        if found is None:
            text, z = self.empty, self._latents(self.square)
            with self.stage("unet"):
                found = self.network.denoise(
                    self.square,
                    z,
                    text,
                    timestep,
                    features=False,
                    self_attention=True,
                    progress=self._progress,
                ).self_attention
            self._kept.put(key, found)
        return found

    def norms(self, features: Sequence[Grid]) -> Array:
        """‖f‖ (H, W) float32 at every pixel of the picture."""
        key = ("norms", *(id(grid.values) for grid in features))
        found: tuple[Array, Sequence[Grid]] | None = self._kept.get(key)
        if found is None:  # kept beside its features: an id is good as long as its object lives
            found = kernels.pixel_norms(features, self.size), features
            self._kept.put(key, found)
        return found[0]

    def release(self) -> None:
        """Let everything go that was computed; what is asked for again is computed again."""
        self._kept.clear()
        self.network.device.free()

    def _queries(self, canvas: Canvas, timestep: int, noise: bool) -> tuple[Array, ...]:
        """(tiles, heads, pixels, d) float32 of every cross-attention layer, of the empty prompt."""
        key = ("queries", canvas, timestep, noise)
        found: tuple[Array, ...] | None = self._kept.get(key)
        if found is None:
            text, z = self.empty, self._latents(canvas)
            with self.stage("unet"):
                seen = self.network.denoise(
                    canvas,
                    z,
                    text,
                    timestep,
                    noise=noise,
                    features=noise,  # of the same pass; nobody reads them without noise
                    queries=True,
                    progress=self._progress,
                )
            found = seen.queries
            self._kept.put(key, found)
            if noise and canvas == self.canvas:
                self._kept.put(("features", timestep, text.key), seen.features)
        return found

    def _latents(self, canvas: Canvas) -> Array:
        """z of every tile."""
        z: Array | None = self._kept.get(("z", canvas))
        if z is None:
            with self.stage("vae"):
                z = self.network.encode(self.image, canvas)
            self._kept.put(("z", canvas), z)
        return z


_Tapped = TypeVar("_Tapped")


def _of_strides(
    declared: Sequence[FeatureOutput | AttentionOutput],
    found: Sequence[_Tapped],
    strides: Sequence[int] | None,
) -> list[_Tapped]:
    return [
        tapped
        for output, tapped in zip(declared, found, strict=True)
        if strides is None or output.stride in strides
    ]
