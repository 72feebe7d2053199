"""From pixels to what the network shows of them: tile → encode → denoise → stitch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid, array_module
from ...kernels.cuda import MOST_LEVELS
from ..bundle import contract
from ..bundle.cuts import Cut
from ..bundle.loading import Bundle
from ..errors import BundleError, MdrtError
from ..sessions.backend import Backend
from ..sessions.base import Session
from ..sessions.device import Gpu
from ..sessions.ort import OrtSession
from . import tiles
from .axes import check_axes
from .passes import Passes
from .rows import Rows
from .tiles import Canvas, Stitcher
from .words import EncodedText, Words

PIXELS_AT_ONCE: Final = 4 * 256 * 256
"""Tiles go through the networks in batches of about this many pixels: four of 256², one of 512²."""


@dataclass(frozen=True)
class Seen:
    """What the network shows of a picture at one timestep, stitched, on the model's device.

    Attributes:
        features: F_l, one grid a stride in the cut's order (the mean over the prompts of a long
            class list); empty if they were not asked for.
        encoder: the same of what the encoder gives.
        aligned: the same of the maps in the space of pooled texts.
        logits: of the class tokens, (heads, tokens, rows, columns) a layer in the cut's order, or
            their probabilities, comparable over all prompts; empty without class names.
        self_attention: Q/√d and K, (heads, pixels, d) each, a layer in the cut's order; empty
            unless they were asked for.
        queries: of every tile and prompt, a tile's prompts one after another, (tiles · prompts,
            heads, pixels, d) a layer in the cut's order; empty unless they were asked for.
    """

    features: tuple[Grid, ...]
    encoder: tuple[Grid, ...]
    aligned: tuple[Grid, ...]
    logits: tuple[Array, ...]
    self_attention: tuple[tuple[Array, Array], ...] = ()
    queries: tuple[Array, ...] = ()


class Network:
    """A bundle's graphs, loaded."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Load the graphs.

        Raises:
            BundleError: a graph is not what its manifest says.
        """
        self.manifest, self.backend, self.device = bundle.manifest, backend, backend.device
        if isinstance(self.device, Gpu) and len(self.manifest.features) > MOST_LEVELS:
            raise BundleError(
                f"{bundle.path} has features of {len(self.manifest.features)} strides, and a GPU "
                f"takes at most {MOST_LEVELS}; export it again with fewer feature strides, or use "
                "provider cpu",
                provider="cpu",
            )
        self.vae: Session | None = None
        if self.manifest.latent is not None:
            self.vae = backend.open(backend.files[contract.VAE_ENCODER])
            check_axes(bundle, contract.VAE_ENCODER, self.vae)
        self.passes = Passes(bundle, backend)
        self.words = Words(bundle, backend)
        self.noise: Array | None = None
        if self.manifest.noise is not None:
            with self.device.active():
                self.noise = self.device.upload(bundle.noise())
        # apart: a graph for which memory suffices says nothing of the other
        self._vae_rows, self._pass_rows = Rows(backend.rows), Rows(backend.rows)

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return [*self._to_latents, *self.words.sessions, *self.passes.sessions]

    @property
    def _to_latents(self) -> list[Session]:
        return [] if self.vae is None else [self.vae]

    @property
    def nodes(self) -> dict[str, dict[str, int]]:
        """Graph → ONNX Runtime's provider → how many nodes it has, where that is not the CPU's."""
        ours = (
            one for one in (*self._to_latents, *self.passes.sessions) if isinstance(one, OrtSession)
        )
        return {one.path.name: one.nodes for one in ours if one.nodes} | self.words.nodes

    def encode(self, image: NDArray[np.uint8], canvas: Canvas, mirrored: bool = False) -> Array:
        """z of every tile, (tiles, c, h, w) float32: the VAE's mean, shifted and scaled, or the
        pixels of a network that sees those; or of every tile mirrored, left for right."""
        manifest, device, rows = self.manifest, self.device, self._vae_rows
        latent, pictures = manifest.latent, manifest.image
        pixels = device.upload(canvas.paint(image)).transpose(2, 0, 1)
        found = []
        for group in rows.groups(len(canvas.origins), self._most(canvas)):
            with rows.attempt(group):
                crops = device.xp.stack([canvas.crop(pixels, canvas.origins[i]) for i in group])
                crops = crops[..., ::-1] if mirrored else crops
                z = tiles.to_network(crops, pictures.mean, pictures.deviation)
                if self.vae is not None and latent is not None:
                    mean = self.vae.infer({contract.IMAGE: z})[contract.LATENT]
                    z = (mean - latent.shift) * latent.scaling
            if rows.short:
                device.free()
                continue
            found.append(z)
        whole: Array = device.xp.concatenate(found)
        return whole

    def denoise(
        self,
        canvas: Canvas,
        z: Array,
        text: EncodedText,
        timestep: int,
        *,
        cut: Cut | None = None,
        noise: bool = True,
        features: bool = True,
        logits: bool = True,
        probabilities: bool = False,
        self_attention: bool = False,
        queries: bool = False,
        mirrored: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Seen:
        """One pass of the network a tile and prompt; the outputs stitched.

        Args:
            canvas: where the tiles lie.
            z: of every tile, from `encode`.
            text: the prompts.
            timestep: the level of noise, what the network is told.
            cut: how far the pass goes, None for as far as it can; all below is of what it gives.
            noise: whether z is noised to the timestep, by the bundle's fixed noise.
            features: whether features, the encoder's too, and aligned maps are returned.
            logits: whether those of the prompts' class tokens are returned.
            probabilities: softmax the logits over the tokens of all prompts first.
            self_attention: whether self-attention is returned; of one tile and one prompt.
            queries: whether queries are returned.
            mirrored: whether z is of mirrored tiles; all that is returned is turned back.
            progress: called with (passes done, passes in all).
        """
        cut, prompts, device = cut or self.passes.longest, text.prompts, self.device
        levels = (*cut.features, *cut.encoder, *cut.aligned) if features else ()
        layers = cut.attention if logits and len(prompts.owner) else ()
        # The class tokens of each prompt; prompts follow one another, so their maps join in order.
        positions = [
            device.upload(prompts.position[prompts.prompt == prompt])
            for prompt in range(len(prompts.texts))
        ]
        stitch = partial(Stitcher, canvas, xp=device.xp)
        grids = {f.name: stitch(f.stride, f.channels) for f in levels}
        maps = {a.name: [stitch(a.stride, a.heads * len(own)) for own in positions] for a in layers}
        # every (tile, prompt); a tile's prompts follow one another
        pairs = [(tile, prompt) for tile in range(len(z)) for prompt in range(len(positions))]
        own_layers = [name for a in cut.self_attention for name in (a.queries, a.keys)]
        own_layers = own_layers if self_attention else []
        if own_layers and len(pairs) != 1:
            raise MdrtError(
                f"self-attention is of one tile's pixels among themselves; {len(z)} tiles and "
                f"{len(positions)} prompts were given"
            )
        among: list[Array] = []
        asking: dict[str, list[Array]] = {}
        if queries:
            asking = {a.queries: [] for a in cut.attention if a.channels}
        # With probabilities a tile's prompts are read together, else one by one.
        held: dict[str, list[Array]] = {a.name: [] for a in layers}
        together = len(positions) if probabilities else 1
        shared = device.upload(prompts.shared)
        z_t = self._noised(canvas, z, timestep) if noise else z
        wanted = [*grids, *maps, *own_layers, *asking]
        session, rows, xp = self.passes.session(cut), self._pass_rows, device.xp
        for group in rows.groups(len(pairs), self._most(canvas)):
            with rows.attempt(group):
                feeds = {
                    name: xp.stack([values[pairs[i][1]] for i in group])
                    for name, values in text.inputs.items()
                    if name in session.inputs
                }
                sees = contract.IMAGE if self.manifest.latent is None else contract.SAMPLE
                feeds[sees] = xp.stack([z_t[pairs[i][0]] for i in group])
                if self.manifest.noise is not None:
                    feeds[contract.TIMESTEP] = xp.full(len(group), timestep, dtype="int64")
                outputs = session.infer(feeds, wanted)
                outputs = _turned(outputs, canvas, cut) if mirrored else outputs
            if rows.short:
                device.free()
                continue
            for row, (tile, prompt) in enumerate(pairs[group.start : group.stop]):
                origin = canvas.origins[tile]
                for f in levels:
                    grids[f.name].add(origin, outputs[f.name][row])
                for a in layers:
                    cells = [side // a.stride for side in canvas.tile]
                    own_logits, output = held[a.name], outputs[a.name][row]
                    # the session may fill its buffers anew
                    own_logits.append(output.copy() if together > 1 else output)
                    if len(own_logits) < together:
                        continue
                    read = own_logits
                    if probabilities:
                        read = kernels.token_softmax(own_logits, shared)
                    for i, values in enumerate(read, prompt + 1 - together):
                        own = values[:, :, positions[i]].transpose(0, 2, 1)  # heads, tokens, pixels
                        maps[a.name][i].add(origin, own.reshape(-1, *cells))
                    own_logits.clear()
                among += [outputs[name][row].copy() for name in own_layers]
                for name, found in asking.items():
                    found.append(outputs[name][row].copy())
            progress(group.stop, len(pairs))
        stitched = []
        for a in layers:
            by_head = [
                part.reshape(a.heads, -1, *part.shape[1:])
                for part in (own.result() for own in maps[a.name])
            ]
            stitched.append(device.xp.concatenate(by_head, axis=1))
        seen = {f.name: Grid(grids[f.name].result(), canvas.extent) for f in levels}
        encoder, aligned = (
            tuple(seen.pop(f.name) for f in kind if f in levels)
            for kind in (cut.encoder, cut.aligned)
        )
        asked = tuple(xp.stack(found) for found in asking.values())
        paired = tuple(zip(among[::2], among[1::2], strict=True))
        return Seen(tuple(seen.values()), encoder, aligned, tuple(stitched), paired, asked)

    def attend(
        self,
        canvas: Canvas,
        queries: Sequence[Array],
        text: EncodedText,
        probabilities: bool,
        cut: Cut | None = None,
    ) -> tuple[Array, ...]:
        """Logits of words that did not drive the pass, as `Seen.logits` has those that did.

        Args:
            canvas: where the tiles lie.
            queries: of every tile, as `Seen.queries`.
            text: the words.
            probabilities: softmax the logits over the tokens of all prompts first.
            cut: how far the pass went, None for as far as it can.
        """
        cut, prompts, device = cut or self.passes.longest, text.prompts, self.device
        by_layer = zip(self.manifest.late, self.words.keys(text), strict=True)
        layers = [layer for layer in cut.attention if layer.channels]
        keys = [its_keys for layer, its_keys in by_layer if layer in layers]
        prompt, position = device.upload(prompts.prompt), device.upload(prompts.position)
        own = [device.upload(prompts.position[prompts.prompt == p]) for p in range(len(keys[0]))]
        shared = device.upload(prompts.shared)
        seen = []
        for layer, of_layer, its_keys in zip(layers, queries, keys, strict=True):
            cells = [side // layer.stride for side in canvas.tile]
            stitched = Stitcher(
                canvas, layer.stride, layer.heads * len(prompts.owner), xp=device.xp
            )
            # of all tokens only where a softmax needs them
            chosen = None if probabilities else its_keys[prompt, :, position].transpose(1, 0, 2)
            for origin, of_tile in zip(canvas.origins, of_layer, strict=True):
                if chosen is None:
                    every = [kernels.logits(of_tile, of_prompt) for of_prompt in its_keys]
                    every = kernels.token_softmax(every, shared)
                    read = [one[:, :, at] for one, at in zip(every, own, strict=True)]
                    values = device.xp.concatenate(read, axis=2)
                else:
                    values = kernels.logits(of_tile, chosen)
                stitched.add(origin, values.transpose(0, 2, 1).reshape(-1, *cells))
            whole = stitched.result()
            seen.append(whole.reshape(layer.heads, -1, *whole.shape[1:]))
        return tuple(seen)

    def _noised(self, canvas: Canvas, z: Array, timestep: int) -> Array:
        """z_t = a z + b ε of every tile; ε depends on the place on the canvas alone, or on that in
        the tile where tiles are alike."""
        if self.noise is None or self.manifest.noise is None:
            return z
        of_z, of_noise = self.manifest.noise.shares(timestep)
        factor = self.manifest.factor
        rows, columns = (side // factor for side in canvas.size)
        xp, noise = self.device.xp, self.noise
        times = (1, math.ceil(rows / noise.shape[1]), math.ceil(columns / noise.shape[2]))
        repeated = xp.tile(noise, times)
        places = [(0, 0)] * len(z) if canvas.alike else canvas.origins
        under = xp.stack([canvas.crop(repeated, place, factor) for place in places])
        z_t: Array = of_z * z + of_noise * under
        return z_t

    def _most(self, canvas: Canvas) -> int:
        """Tiles of a batch."""
        return max(1, PIXELS_AT_ONCE // (canvas.tile[0] * canvas.tile[1]))

    def close(self) -> None:
        """Give back what the graphs take."""
        for session in self._to_latents:
            session.close()
        self.passes.close()
        self.words.close()
        self.device.free()


def _turned(outputs: Mapping[str, Array], canvas: Canvas, cut: Cut) -> dict[str, Array]:
    """Outputs of mirrored tiles, left for right: of maps (…, h, w), and of attention layers by
    pixel, (…, pixels, channels)."""
    strides = {
        name: layer.stride
        for layer in (*cut.attention, *cut.self_attention)
        for name in (layer.name, layer.queries, layer.keys)
    }
    turned = {}
    for name, values in outputs.items():
        xp = array_module(values)
        if name in strides:
            cells = [side // strides[name] for side in canvas.tile]
            apart = values.reshape(*values.shape[:-2], *cells, values.shape[-1])
            turned[name] = xp.ascontiguousarray(apart[..., ::-1, :]).reshape(values.shape)
        else:
            turned[name] = xp.ascontiguousarray(values[..., ::-1])
    return turned


def averaged(one: Seen, other: Seen) -> Seen:
    """What two passes over the same canvas show on average: of self-attention, whose maps are
    averaged over the heads, the heads of both."""

    def mean(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        return tuple((a + b) / 2 for a, b in zip(left, right, strict=True))

    def grids(left: Sequence[Grid], right: Sequence[Grid]) -> tuple[Grid, ...]:
        values = mean([grid.values for grid in left], [grid.values for grid in right])
        return tuple(Grid(v, grid.extent) for v, grid in zip(values, left, strict=True))

    return Seen(
        grids(one.features, other.features),
        grids(one.encoder, other.encoder),
        grids(one.aligned, other.aligned),
        mean(one.logits, other.logits),
        tuple(
            (array_module(q).concatenate([q, r]), array_module(k).concatenate([k, n]))
            for (q, k), (r, n) in zip(one.self_attention, other.self_attention, strict=True)
        ),
        mean(one.queries, other.queries),
    )
