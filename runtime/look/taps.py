"""What the networks show of one picture, for heads to read.

Everything is computed when it is first asked for and kept, so that one pass of a network serves
every head, every choice of strides and, where the words do not drive it, every list of words.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid, Guide, Size
from ..bundle.contract import AttentionOutput, FeatureOutput, aligned_name
from ..bundle.cuts import Cut
from ..errors import MdrtError
from ..pictures.images import shrink
from . import tiles
from .clock import StageClock
from .kept import Kept
from .network import Network, Seen, averaged
from .tiles import Canvas
from .words import EncodedText

KEPT_BYTES: Final = 1 << 30
"""Of a look, before what was used longest ago gives way: some 50 pictures of 512²."""

SCALES: Final = (0.75, 1.375)
"""Of the size that a picture is seen at, where it is seen at others too. Chosen on the photographs
of docs/notes/heads.md, from 392, 714, 728 and 910 beside 518 pixels."""


@dataclass(frozen=True)
class SelfAttention:
    """One self-attention layer of a square picture: its map is softmax(Q Kᵀ/√d) of every head.

    Attributes:
        stride: image pixels of the square a cell.
        queries: Q/√d, (heads, pixels, d) float32.
        keys: K, likewise.
        passes: how many the heads are of, one's after the other's: two with the mirrored picture.
    """

    stride: int
    queries: Array
    keys: Array
    passes: int = 1

    def heads(self, first: int, last: int) -> tuple[Array, Array]:
        """Q/√d and K of some heads of each pass; of all, where a layer has no more than `first`."""
        each = len(self.queries) // self.passes
        if each <= first:
            return self.queries, self.keys
        own = [p * each + h for p in range(self.passes) for h in range(first, min(last, each))]
        return self.queries[own], self.keys[own]


@dataclass(frozen=True)
class CrossAttention:
    """One cross-attention layer of a square picture, of all tokens of a text's prompts.

    Attributes:
        declared: the layer.
        queries: Q/√d of the pass that each prompt reads, (prompts, heads, pixels, d) float32.
        keys: K of each prompt, (prompts, heads, max_length, d) float32.
        values: V of each through the output projection, (prompts, heads, max_length, D) float32.
    """

    declared: AttentionOutput
    queries: Array
    keys: Array
    values: Array


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
        manifest = network.manifest
        self.network, self.image = network, image
        self.canvas = self._planned(manifest.image.native_size, max_size)
        self.square = tiles.squash(self.size, manifest.image.native_size)
        self._clock, self._progress, self._kept = clock, progress, Kept(most_bytes)
        self._mirror = False

    def mirrored(self, mirror: bool) -> Taps:
        """The same picture and what was seen of it; with `mirror` all taps are averages with what
        is seen of its tiles mirrored, left for right."""
        view = copy(self)
        view._mirror = mirror
        return view

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of what was seen and is kept."""
        return self._kept.nbytes

    @property
    def empty(self) -> EncodedText:
        """The empty prompt."""
        with self.stage("text"):
            return self.network.words.encode(None)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a block as a stage of the call under way."""
        return self._clock.stage(name)

    def features(
        self,
        timestep: int,
        text: EncodedText,
        strides: Sequence[int] | None = None,
        *,
        encoder: bool = False,
        scales: bool = False,
    ) -> list[Grid]:
        """F_l of the strides asked for (None: all), of the pass that a text drives; or what the
        encoder gives, of a pass that need go no further.

        With `scales` they are blended with those of the picture at the `SCALES` of this size.

        Raises:
            MdrtError: the encoder's are asked for, and the down blocks have no attention.
        """
        if scales:
            views = [self, *map(self._scaled, SCALES)]
            every = [v.features(timestep, text, strides, encoder=encoder) for v in views]
            return [kernels.blended(levels) for levels in zip(*every, strict=True)]
        manifest, kind = self.network.manifest, "encoder" if encoder else "features"
        declared: Sequence[FeatureOutput] = getattr(manifest, kind)
        if not declared:
            raise MdrtError(
                f"features is 'encoder', and {manifest.model_id} has no attention in its down "
                "blocks; expected 'decoder'"
            )
        found = self._seen(kind, timestep, text)
        if found is None:
            cut = self.network.passes.choose([output.name for output in declared])
            seen = self._pass(self.canvas, self._latents(self.canvas), cut, timestep, text)
            found = getattr(seen, kind)
        return _of_strides(declared, found, None if encoder else strides)

    def aligned(self, kind: str) -> Grid:
        """The map of a kind in the space of the first text's pooled embedding, of the picture
        without noise.

        Raises:
            MdrtError: the bundle gives out none of that kind.
        """
        manifest, text = self.network.manifest, self.empty
        names = [o.name for o in manifest.aligned if o.name == aligned_name(kind, o.stride)]
        if not names:
            given = ", ".join(output.name for output in manifest.aligned) or "none"
            raise MdrtError(
                f"{manifest.model_id} has no map {kind} in the space of its words; it has {given}"
            )
        found: Grid | None = self._kept.get((names[0], self._mirror, 0, text.key))
        if found is None:
            cut = self.network.passes.choose(names)
            seen = self._pass(self.canvas, self._latents(self.canvas), cut, 0, text)
            found = seen.aligned[[output.name for output in cut.aligned].index(names[0])]
        return found

    def embeddings(self, text: EncodedText, templates: Sequence[str]) -> Array:
        """What aligned maps are compared with: (classes, pooled) float32 of length 1, see
        `Words.embeddings`."""
        with self.stage("text"):
            return self.network.words.embeddings(text.prompts.names, templates)

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
            timestep: the level of noise, what the network is told.
            text: names.
            strides: image pixels per cell.
            probabilities: softmax over the tokens of all prompts.
            noise: whether the latent is noised to the timestep.
            late: whether the empty prompt drives the pass, not the names' prompts.

        Returns:
            (heads, tokens, rows, columns) float32 a layer.
        """
        declared = self.network.manifest.attention
        read = _of_strides(declared, declared, strides)
        giving = self.network.passes.giving([a.queries if late else a.name for a in read])
        key = ("logits", self._mirror, canvas, timestep, text.key, probabilities, noise, late)
        cut, found = self._known(key, giving)
        if found is None and late:
            cut, queries = self._queries(canvas, giving, timestep, self.empty, noise)
            with self.stage("text"):
                self.network.words.keys(text)
            with self.stage("attention"):
                found = self.network.attend(canvas, queries, text, probabilities, cut)
            self._kept.put((*key, cut), found)
        elif found is None:
            z, asked = self._latents(canvas), {"noise": noise, "probabilities": probabilities}
            found = self._pass(canvas, z, cut, timestep, text, **asked).logits
            self._kept.put((*key, cut), found)
        given = [a for a in cut.attention if a.channels] if late else cut.attention
        return _of_strides(given, found, strides)

    def cross_attention(
        self, timestep: int, text: EncodedText, *, late: bool = False
    ) -> list[CrossAttention]:
        """Every cross-attention layer, of the picture as one square.

        Args:
            timestep: the level of noise, what the network is told.
            text: names.
            late: whether the empty prompt drives the pass, not the names' prompts.
        """
        declared, words = self.network.manifest.with_values, self.network.words
        giving = self.network.passes.giving([layer.queries for layer in declared])
        drives = self.empty if late else text
        cut, queries = self._queries(self.square, giving, timestep, drives)
        given = zip((a for a in cut.attention if a.channels), queries, strict=True)
        queries = tuple(q for a, q in given if a in declared)
        with self.stage("text"):
            every = zip(self.network.manifest.late, words.keys(text), strict=True)
            keys, values = [k for a, k in every if a in declared], words.values(text)
        xp = self.network.device.xp
        layers = zip(declared, queries, keys, values, strict=True)
        return [
            CrossAttention(a, xp.broadcast_to(q, (len(k), *q.shape[1:])), k, v)
            for a, q, k, v in layers
        ]

    def self_attention(
        self, timestep: int, strides: Sequence[int] | None = None, *, noise: bool = True
    ) -> list[SelfAttention]:
        """Q/√d and K of the self-attention layers of the strides asked for (None: all that the
        bundle gives out), of the picture as one square and the empty prompt."""
        declared = self.network.manifest.self_attention
        read = _of_strides(declared, declared, strides)
        giving = self.network.passes.giving([layer.queries for layer in read])
        key = ("self-attention", self._mirror, timestep, noise)
        cut, found = self._known(key, giving)
        if found is None:
            asked = {"noise": noise, "self_attention": True}
            z = self._latents(self.square)
            seen = self._pass(self.square, z, cut, timestep, self.empty, **asked)
            found = seen.self_attention
            self._kept.put((*key, cut), found)
        layers = zip(cut.self_attention, found, strict=True)
        own = [SelfAttention(a.stride, q, k, 1 + self._mirror) for a, (q, k) in layers]
        return _of_strides(cut.self_attention, own, strides)

    def norms(self, features: Sequence[Grid]) -> Array:
        """‖f‖ (H, W) float32 at every pixel of the picture."""
        key = ("norms", *(id(grid.values) for grid in features))
        found: tuple[Array, Sequence[Grid]] | None = self._kept.get(key)
        if found is None:  # kept beside its features: an id is good as long as its object lives
            found = kernels.pixel_norms(features, self.size), features
            self._kept.put(key, found)
        return found[0]

    def small(self, grid: Size) -> Array:
        """The picture's means over the cells of a grid, (3, *grid) float32 in [0, 1]."""
        means = shrink(self.image, grid).transpose(2, 0, 1).astype(np.float32, order="C") / 255
        return self.network.device.upload(means)

    def guide(self, grid: Size) -> Guide:
        """What scores on a grid follow the picture's edges by."""
        found: Guide | None = self._kept.get(("guide", grid))
        if found is None:
            image = self.network.device.upload(np.ascontiguousarray(self.image))
            found = Guide(image, self.small(grid))
            self._kept.put(("guide", grid), found)
        return found

    def release(self) -> None:
        """Let everything go that was computed; what is asked for again is computed again."""
        self._kept.clear()
        self.network.device.free()

    def _planned(self, native: int, max_size: int | None) -> Canvas:
        manifest, least = self.network.manifest, self.network.backend.least
        return tiles.plan(self.size, native, manifest.image.size_multiple, max_size, least)

    def _scaled(self, scale: float) -> Taps:
        """The same picture seen at another size, in tiles of that."""
        found: Taps | None = self._kept.get(("scaled", scale))
        if found is None:
            asked = self.network.manifest.image
            native = tiles.scaled(asked.native_size, asked.size_multiple, scale)
            longest = round(max(self.canvas.content) * native / asked.native_size)
            found = copy(self)
            found._kept = Kept(self._kept.most_bytes)
            found.canvas = self._planned(native, max(1, longest))
            self._kept.put(("scaled", scale), found)
        return found.mirrored(self._mirror)

    def _pass(
        self,
        canvas: Canvas,
        latents: Sequence[Array],
        cut: Cut,
        timestep: int,
        text: EncodedText,
        *,
        noise: bool = True,
        **asked: bool,
    ) -> Seen:
        """One pass that goes as far as `cut`, or two where the mirrored picture's counts too; its
        features are kept where anyone may read them."""
        asked |= {"noise": noise, "features": noise and canvas == self.canvas}
        seen = None
        for mirrored, z in enumerate(latents):
            with self.stage("unet"):
                found = self.network.denoise(
                    canvas,
                    z,
                    text,
                    timestep,
                    cut=cut,
                    mirrored=bool(mirrored),
                    progress=self._progress,
                    **asked,
                )
                seen = found if seen is None else averaged(seen, found)
        assert seen is not None
        kept: dict[str, Any] = {"features": seen.features, "encoder": seen.encoder}
        kept |= zip((output.name for output in cut.aligned), seen.aligned, strict=False)
        for name, grids in kept.items():
            if grids:
                self._kept.put((name, self._mirror, timestep, text.key), grids)
        return seen

    def _seen(self, kind: str, timestep: int, text: EncodedText) -> tuple[Grid, ...] | None:
        """Maps of the picture's tiles that are kept, of the kind of outputs that `Seen` calls
        so."""
        found: tuple[Grid, ...] | None = self._kept.get((kind, self._mirror, timestep, text.key))
        return found

    def _queries(
        self,
        canvas: Canvas,
        giving: Sequence[Cut],
        timestep: int,
        text: EncodedText,
        noise: bool = True,
    ) -> tuple[Cut, tuple[Array, ...]]:
        """(tiles · prompts, heads, pixels, d) float32 of every cross-attention layer of one of the
        cuts, of the pass that a text drives."""
        key = ("queries", self._mirror, canvas, timestep, text.key, noise)
        cut, found = self._known(key, giving)
        if found is None:
            z, asked = self._latents(canvas), {"logits": False, "queries": True}
            found = self._pass(canvas, z, cut, timestep, text, noise=noise, **asked).queries
            self._kept.put((*key, cut), found)
        return cut, found

    def _known(
        self, key: tuple[Hashable, ...], giving: Sequence[Cut]
    ) -> tuple[Cut, tuple[Any, ...] | None]:
        """What is kept under a key of the first cut of which anything is; else the first cut."""
        for cut in giving:
            if (found := self._kept.get((*key, cut))) is not None:
                return cut, found
        return giving[0], None

    def _latents(self, canvas: Canvas) -> list[Array]:
        """z of every tile, and of every tile mirrored where that counts too."""
        found = []
        for mirrored in (False, True) if self._mirror else (False,):
            z: Array | None = self._kept.get(("z", canvas, mirrored))
            if z is None:
                with self.stage("vae"):
                    z = self.network.encode(self.image, canvas, mirrored)
                self._kept.put(("z", canvas, mirrored), z)
            found.append(z)
        return found


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
