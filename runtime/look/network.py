"""From pixels to what the UNet shows of them: tile → encode → denoise → stitch."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ...kernels.cuda import MOST_LEVELS
from ..bundle import contract
from ..bundle.loading import Bundle
from ..errors import BundleError, MdrtError
from ..pictures.bands import batches
from ..sessions.backend import Backend
from ..sessions.base import Session
from ..sessions.device import Gpu
from ..sessions.ort import OrtSession
from . import tiles
from .prompts import ClassName, Prompts, PromptTokenizer
from .rows import Rows
from .tiles import Canvas, Stitcher

Shape = tuple[int | None, ...]

PIXELS_AT_ONCE: Final = 4 * 256 * 256
"""Tiles go through the networks in batches of about this many pixels: four of 256², one of 512²."""

KEPT_TEXTS: Final = 8
"""Class lists whose embeddings are kept; the one encoded first gives way."""


@dataclass(frozen=True)
class EncodedText:
    """Prompts and their embeddings, computed once per class list.

    `hidden` is (prompts, max_length, hidden) float32, on the model's device.
    """

    prompts: Prompts
    hidden: Array

    @property
    def key(self) -> Hashable:
        """The same for texts that a pass shows the same of: their words, and whose tokens are
        where."""
        prompts = self.prompts
        return prompts.texts, prompts.prompt.tobytes(), prompts.position.tobytes()


@dataclass(frozen=True)
class Seen:
    """What the UNet shows of a picture at one timestep, stitched, on the model's device.

    Attributes:
        features: F_l, one grid a stride in the manifest's order (the mean over the prompts of a
            long class list); empty if they were not asked for.
        logits: of the class tokens, (heads, tokens, rows, columns) a layer in the manifest's
            order, or their probabilities, comparable over all prompts; empty without class names.
        self_attention: probabilities, (pixels, pixels) a layer in the manifest's order; empty
            unless they were asked for.
    """

    features: tuple[Grid, ...]
    logits: tuple[Array, ...]
    self_attention: tuple[Array, ...] = ()


class Network:
    """A bundle's three graphs, loaded."""

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
        self.vae, text, self.unet = map(backend.open, backend.files)
        _check_axes(bundle, self.vae, text, self.unet)
        sessions = (self.vae, text, self.unet)
        ours = (session for session in sessions if isinstance(session, OrtSession))
        self.nodes = {session.path.name: session.nodes for session in ours if session.nodes}
        """Graph → ONNX Runtime's provider → how many nodes it has, where that is not the CPU's."""
        self._text: Session | None = text
        with bundle.held():
            self._tokenizer = PromptTokenizer(bundle.tokenizer, self.manifest.tokenizer)
        self._texts: dict[tuple[str, ...], Array] = {}
        self._texts_lock = Lock()
        with self.device.active():
            self.noise = self.device.upload(bundle.noise())
        # apart: a graph for which memory suffices says nothing of the other
        self._vae_rows, self._unet_rows = Rows(backend.rows), Rows(backend.rows)

    @property
    def text(self) -> Session:
        """The text encoder, loaded again if it was released."""
        if self._text is None:
            self._text = self.backend.open(self.backend.files[1])
        return self._text

    def release_text(self) -> None:
        """Give back the memory of the text encoder; a class list not yet encoded loads it again."""
        if self._text is not None:
            self._text.close()
        self._text = None
        self.device.free()

    def encode_text(self, classes: Sequence[ClassName] | None) -> EncodedText:
        """Embeddings of a class list; of the empty prompt for None. Kept for next time.

        Raises:
            PromptError: the class list cannot be a prompt.
        """
        tokenizer = self._tokenizer
        prompts = tokenizer.empty() if classes is None else tokenizer.encode(classes)
        with self._texts_lock:  # callers may be threads
            hidden = self._texts.get(prompts.texts)
            if hidden is None:
                if len(self._texts) >= KEPT_TEXTS:
                    self._texts.pop(next(iter(self._texts)))
                with self.device.active():
                    hidden = self._texts[prompts.texts] = self._embed(prompts.input_ids)
        # The same texts can stand for other groupings of synonyms: the embeddings are shared.
        return EncodedText(prompts, hidden)

    def encode(self, image: NDArray[np.uint8], canvas: Canvas) -> Array:
        """z of every tile, (tiles, c, h, w) float32: the VAE's mean, shifted and scaled."""
        manifest, device, rows = self.manifest, self.device, self._vae_rows
        pixels = device.upload(canvas.paint(image)).transpose(2, 0, 1)
        latents = []
        for group in rows.groups(len(canvas.origins), self._most(canvas)):
            with rows.attempt(group):
                crops = device.xp.stack([canvas.crop(pixels, canvas.origins[i]) for i in group])
                outputs = self.vae.infer({contract.IMAGE: tiles.to_network(crops)})
            if rows.short:
                device.free()
                continue
            latents.append(
                (outputs[contract.LATENT] - manifest.shift_factor) * manifest.scaling_factor
            )
        z: Array = device.xp.concatenate(latents)
        return z

    def denoise(
        self,
        canvas: Canvas,
        z: Array,
        text: EncodedText,
        timestep: int,
        *,
        noise: bool = True,
        features: bool = True,
        probabilities: bool = False,
        self_attention: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Seen:
        """One UNet pass a tile and prompt; the outputs stitched.

        Args:
            canvas: where the tiles lie.
            z: of every tile, from `encode`.
            text: the prompts; their class tokens' logits are returned.
            timestep: index into ᾱ, what the UNet is told.
            noise: whether z is noised to the timestep, by the bundle's fixed noise.
            features: whether features are returned.
            probabilities: softmax the logits over the tokens of all prompts first.
            self_attention: whether self-attention is returned; of one tile and one prompt.
            progress: called with (passes done, passes in all).
        """
        manifest, prompts, device = self.manifest, text.prompts, self.device
        levels = manifest.features if features else ()
        layers = manifest.attention if prompts.classes else ()
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
        own_layers = [a.name for a in manifest.self_attention] if self_attention else []
        if own_layers and len(pairs) != 1:
            raise MdrtError(
                f"self-attention is of one tile's pixels among themselves; {len(z)} tiles and "
                f"{len(positions)} prompts were given"
            )
        among: list[Array] = []
        # With probabilities a tile's prompts are read together, else one by one.
        held: dict[str, list[Array]] = {a.name: [] for a in layers}
        together = len(positions) if probabilities else 1
        shared = device.upload(prompts.shared)
        z_t = self._noised(canvas, z, timestep) if noise else z
        wanted, rows, xp = [*grids, *maps, *own_layers], self._unet_rows, device.xp
        for group in rows.groups(len(pairs), self._most(canvas)):
            with rows.attempt(group):
                feeds = {
                    contract.SAMPLE: xp.stack([z_t[pairs[i][0]] for i in group]),
                    contract.TIMESTEP: xp.full(len(group), timestep, dtype="int64"),
                    contract.ENCODER_HIDDEN_STATES: xp.stack(
                        [text.hidden[pairs[i][1]] for i in group]
                    ),
                }
                outputs = self.unet.infer(feeds, wanted)
            if rows.short:
                device.free()
                continue
            for row, (tile, prompt) in enumerate(pairs[group.start : group.stop]):
                origin = canvas.origins[tile]
                for f in levels:
                    grids[f.name].add(origin, outputs[f.name][row])
                for a in layers:
                    cells = [side // a.stride for side in canvas.tile]
                    logits, output = held[a.name], outputs[a.name][row]
                    # the session may fill its buffers anew
                    logits.append(output.copy() if together > 1 else output)
                    if len(logits) < together:
                        continue
                    read = kernels.token_softmax(logits, shared) if probabilities else logits
                    for i, values in enumerate(read, prompt + 1 - together):
                        own = values[:, :, positions[i]].transpose(0, 2, 1)  # heads, tokens, pixels
                        maps[a.name][i].add(origin, own.reshape(-1, *cells))
                    logits.clear()
                among += [outputs[name][row].copy() for name in own_layers]
            progress(group.stop, len(pairs))
        stitched = []
        for a in layers:
            by_head = [
                part.reshape(a.heads, -1, *part.shape[1:])
                for part in (own.result() for own in maps[a.name])
            ]
            stitched.append(device.xp.concatenate(by_head, axis=1))
        seen = tuple(Grid(grids[f.name].result(), canvas.extent) for f in levels)
        return Seen(seen, tuple(stitched), tuple(among))

    def _embed(self, input_ids: NDArray[np.int64]) -> Array:
        """(prompts, max_length, hidden) of (prompts, max_length) token ids."""
        ids, parts = self.device.upload(input_ids), []
        for group in batches(len(ids), self.backend.rows or len(ids)):
            outputs = self.text.infer({contract.INPUT_IDS: ids[group.start : group.stop]})
            parts.append(outputs[contract.ENCODER_HIDDEN_STATES].copy())  # a buffer filled anew
        hidden: Array = self.device.xp.concatenate(parts)
        return hidden

    def _noised(self, canvas: Canvas, z: Array, timestep: int) -> Array:
        """z_t = √ᾱ_t z + √(1 − ᾱ_t) ε of every tile; ε depends on the place on the canvas alone."""
        alpha, factor = self.manifest.alphas_cumprod[timestep], self.manifest.vae_factor
        rows, columns = (side // factor for side in canvas.size)
        xp, noise = self.device.xp, self.noise
        times = (1, math.ceil(rows / noise.shape[1]), math.ceil(columns / noise.shape[2]))
        repeated = xp.tile(noise, times)
        under = xp.stack([canvas.crop(repeated, origin, factor) for origin in canvas.origins])
        z_t: Array = math.sqrt(alpha) * z + math.sqrt(1 - alpha) * under
        return z_t

    def _most(self, canvas: Canvas) -> int:
        """Tiles of a batch."""
        return max(1, PIXELS_AT_ONCE // (canvas.tile[0] * canvas.tile[1]))

    def close(self) -> None:
        """Give back what the graphs take."""
        for session in (self.vae, self.unet, self._text):
            if session is not None:
                session.close()
        self._texts.clear()
        self.device.free()


def _check_axes(bundle: Bundle, vae: Session, text: Session, unet: Session) -> None:
    """Compare the graphs with their manifest: names, and every axis that both fix.

    Raises:
        BundleError: a tensor is missing or of another shape.
    """
    manifest, length = bundle.manifest, bundle.manifest.tokenizer.max_length
    latent: Shape = (None, manifest.latent_channels, None, None)
    hidden: Shape = (None, length, manifest.text.hidden)
    outputs: dict[str, Shape] = {f.name: (None, f.channels, None, None) for f in manifest.features}
    outputs |= {a.name: (None, a.heads, None, length) for a in manifest.attention}
    outputs |= {a.name: (None, None, None) for a in manifest.self_attention}
    text_shapes = {contract.INPUT_IDS: (None, length), contract.ENCODER_HIDDEN_STATES: hidden}
    unet_shapes = {contract.SAMPLE: latent, contract.ENCODER_HIDDEN_STATES: hidden, **outputs}
    declared: list[tuple[Path, Session, Mapping[str, Shape]]] = [
        (bundle.vae_encoder, vae, {contract.LATENT: latent}),
        (bundle.text_encoder, text, text_shapes),
        (bundle.unet, unet, unet_shapes),
    ]
    for path, session, shapes in declared:
        tensors = {**session.inputs, **session.outputs}
        for name, expected in shapes.items():
            if name not in tensors:
                raise BundleError(
                    f"{path} lacks the tensor {name} its manifest lists; run `mdrt export` again"
                )
            found = tensors[name].shape
            fixed = [pair for pair in zip(found, expected, strict=False) if None not in pair]
            if len(found) != len(expected) or any(n != m for n, m in fixed):
                raise BundleError(
                    f"{path}: {name} is {_axes(found)}, its manifest says {_axes(expected)}; "
                    "run `mdrt export` again"
                )


def _axes(shape: Shape) -> str:
    """A shape as text, with ? for a dynamic axis."""
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
