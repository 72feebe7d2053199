"""The pipeline: tile → encode → denoise → pool attention → prototypes → assign."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import Grid, Method, Mode, Pooling
from . import contract, tiles
from .bundle import Bundle, load_bundle
from .errors import BundleError, MdrtError
from .images import check_image, read_image
from .prompts import ClassName, Prompts, PromptTokenizer, synonyms
from .session import OrtSession, Session, check_precision, wants_winograd
from .tiles import Canvas, Stitcher
from .trace import Trace

Array = NDArray[np.float32]
Shape = tuple[int | None, ...]

PIXELS_AT_ONCE: Final = 4 * 256 * 256
"""Tiles go through the networks in batches of about this many pixels: four of 256², one of 512²."""

PAPER_TIMESTEP: Final = 0
"""t = 1 of the paper. Unnamed segments use it: a recommended timestep serves the words' maps."""

EMBEDDED: Final = Path(str(files("mdrt.assets"))) / "scenes"
"""The bundle that comes with the package: the scenes world's own model."""


@dataclass(frozen=True)
class Options:
    """How to segment. None takes what the bundle recommends.

    Attributes:
        mode: "paper" (Eq. 5–6 as written) or "released" (as the official code does it).
        pooling: how logits become class maps: "exp" (Eq. 4), "softmax" over tokens, or "logit".
        timestep: index into ᾱ, 0 is the paper's t = 1.
        method: how unnamed segments are found: "spectral", or "kmeans" (the paper's baseline).
        max_size: longer side in pixels a picture is reduced to for the network; None keeps it.
            No picture goes below the bundle's native size: smaller ones are enlarged to it.
        scores: keep the score of every class at every pixel.
    """

    mode: Mode | None = None
    pooling: Pooling | None = None
    timestep: int | None = None
    method: Method = "spectral"
    max_size: int | None = None
    scores: bool = False

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            MdrtError: a value outside its choices.
        """
        choices: list[tuple[str, object, tuple[object, ...]]] = [
            ("mode", self.mode, (None, *contract.MODES)),
            ("pooling", self.pooling, (None, *contract.POOLINGS)),
            ("method", self.method, ("spectral", "kmeans")),
        ]
        for name, value, valid in choices:
            if value not in valid:
                raise MdrtError(f"{name} is {value!r}, expected one of {valid[-3:]}")
        if self.max_size is not None and self.max_size < 1:
            raise MdrtError(f"max_size is {self.max_size}, expected at least 1 pixel")


@dataclass(frozen=True)
class Segmentation:
    """The result for one picture.

    Attributes:
        labels: (H, W) uint8 or uint16, index into `classes`.
        classes: names; "segment 1", … where there were none.
        confidence: (H, W) float32, cosine of each pixel's features to its class's prototype
            (in mode "released" times the prototype's length); comparable within one picture.
        scores: (classes, H, W) float32, the same for every class; None unless asked for.
        weights: the maps a_c that the prototypes were averaged with: attention class maps
            (Eq. 4), or one-hot segments; a grid of (classes, rows, columns) in [0, 1].
        timings: seconds per stage, in the order in which they ran.
        settings: what was used: mode, pooling, timestep, method, Winograd convolutions, tiles.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    classes: tuple[str, ...]
    confidence: Array
    scores: Array | None
    weights: Grid
    timings: dict[str, float]
    settings: dict[str, Any]

    @property
    def shares(self) -> NDArray[np.float64]:
        """(classes,) share of the pixels that each class covers, in [0, 1]."""
        return self.totals() / self.labels.size

    def totals(self, values: Array | None = None) -> NDArray[np.float64]:
        """(classes,) sum of `values` (H, W) over each class's pixels; of None, their number."""
        count = len(self.classes)
        sums = np.zeros(count)
        for rows in tiles.bands(self.labels.shape):  # bincount widens what it gets to 64 bits
            weights = None if values is None else values[rows].ravel()
            sums += np.bincount(self.labels[rows].ravel(), weights, count)
        return sums


@dataclass(frozen=True)
class EncodedText:
    """Prompts and their embeddings, computed once per class list.

    `hidden` is (prompts, max_length, hidden) float32.
    """

    prompts: Prompts
    hidden: Array


@dataclass
class _Clock:
    trace: Trace | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.trace.span(name) if self.trace else nullcontext():
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Segmenter:
    """A loaded model. Load once, call per picture.

    segmenter = mdrt.Segmenter()
    result = segmenter("beach.jpg", ["sky", "sand", ("water", "sea")])
    result = segmenter("beach.jpg", segments="auto")
    """

    def __init__(
        self,
        engine: str | Path | None = None,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        winograd: bool | None = None,
        verify: bool = True,
        trace: Trace | None = None,
        open_graph: Callable[[Path], Session] | None = None,
    ) -> None:
        """Load a bundle.

        Args:
            engine: bundle directory or its `unet.onnx`; None takes the embedded model.
            provider: where ONNX Runtime runs, see `session.PROVIDERS`.
            threads: of one operator; None takes every core.
            winograd: large convolutions by minimal filtering, on a CPU about three times as fast
                and within about 1e-5 of the direct ones; None: where bundle and install have it.
            verify: check every file's SHA-256 before trusting it; a large one's is remembered
                until the file changes.
            trace: where to note when each stage and each node of the graphs ran.
            open_graph: loads a graph into a session of another runtime, in the place of ONNX
                Runtime with the options above.

        Raises:
            BundleError: the bundle is missing, damaged, of another schema, or its graphs are not
                what its manifest says.
            ProviderError: the provider is unknown or not installed or cannot compute in the
                bundle's precision, or `winograd` is True and cannot be had.
        """
        self.bundle: Bundle = load_bundle(EMBEDDED if engine is None else engine, verify)
        self.manifest = self.bundle.manifest
        paths = self.bundle.graphs(twins=False)
        if open_graph is None:
            check_precision(self.manifest.precision, provider)
            paths = self.bundle.graphs(twins=wants_winograd(winograd, self.bundle, provider))
            open_graph = partial(
                OrtSession, provider=provider, threads=threads, profile=trace is not None
            )
        self.winograd = paths != self.bundle.graphs(twins=False)
        sessions = [open_graph(path) for path in paths]
        self.vae, self.text, self.unet = sessions
        _check_axes(self.bundle, self.vae, self.text, self.unet)
        self._tokenizer = PromptTokenizer(self.bundle.tokenizer, self.manifest.tokenizer)
        self.noise = self.bundle.noise()
        self._trace = trace
        self._texts: dict[tuple[str, ...], EncodedText] = {}

    def __call__(
        self,
        image: str | Path | NDArray[np.uint8],
        classes: Sequence[ClassName] | None = None,
        *,
        segments: int | Literal["auto"] | None = None,
        options: Options | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Segmentation:
        """Segment one picture, into named classes or into unnamed segments.

        Args:
            image: a file, or (H, W, 3) uint8 RGB of any size and aspect.
            classes: names; a tuple of names is one class with synonyms.
            segments: how many unnamed segments, or "auto"; instead of `classes`.
            options: see `Options`.
            progress: called with (tiles done, tiles in all) while the UNet runs.

        Raises:
            ImageError, PromptError: what arrived cannot be segmented.
            MdrtError: both or neither of `classes` and `segments` were given, or the bundle has
                no such timestep.
        """
        if (classes is None) == (segments is None):
            raise MdrtError("give either classes (names) or segments (a number or 'auto')")
        if segments is not None and segments != "auto":
            counts = isinstance(segments, int | np.integer)
            if not counts or not 1 <= segments <= contract.MOST_SEGMENTS:
                raise MdrtError(
                    f"segments is {segments!r}, expected 1 to {contract.MOST_SEGMENTS} or 'auto'"
                )
            segments = int(segments)
        options = self.settle(options or Options(), classes is not None)
        clock = _Clock(self._trace)
        with clock.stage("image"):
            pixels = read_image(image) if isinstance(image, str | Path) else check_image(image)
        quiet = progress or (lambda done, total: None)
        run = _Run(self, pixels, options, clock, quiet, classes is not None)
        if classes is not None:
            return run.named(classes)
        assert segments is not None
        return run.unnamed(segments)

    def settle(self, options: Options, named: bool) -> Options:
        """The options with what the bundle recommends in the place of None.

        Args:
            named: whether for named classes or for unnamed segments.

        Raises:
            MdrtError: the bundle has no such timestep.
        """
        recommended, steps = self.manifest.recommended, len(self.manifest.alphas_cumprod)
        timestep = options.timestep
        if timestep is None:
            timestep = recommended.timestep if named else PAPER_TIMESTEP
        if not 0 <= timestep < steps:
            raise MdrtError(f"timestep is {timestep}, expected 0 to {steps - 1}")
        # The manifest's values were checked against the same choices when it was read.
        mode = options.mode or cast("Mode", recommended.mode)
        pooling = options.pooling or cast("Pooling", recommended.pooling)
        return replace(options, mode=mode, pooling=pooling, timestep=timestep)

    def encode_text(self, classes: Sequence[ClassName] | None) -> EncodedText:
        """Embeddings of a class list; of the empty prompt for None. Kept for next time."""
        tokenizer = self._tokenizer
        prompts = tokenizer.empty() if classes is None else tokenizer.encode(classes)
        key = prompts.texts
        known = self._texts.get(key)
        if known is None:
            hidden = self.text.infer({contract.INPUT_IDS: prompts.input_ids})
            known = EncodedText(prompts, hidden[contract.ENCODER_HIDDEN_STATES])
            if len(self._texts) >= 8:
                self._texts.pop(next(iter(self._texts)))
            self._texts[key] = known
        # The same texts can stand for other groupings of synonyms: the embeddings are shared.
        return EncodedText(prompts, known.hidden)

    def unknown(self, classes: Sequence[ClassName]) -> list[str]:
        """The names that a closed-vocabulary model has never seen; empty for an open one."""
        if not self.manifest.classes:
            return []
        known = {name.lower() for name in self.manifest.classes}
        names = [name for synonymous in classes for name in synonyms(synonymous)]
        return [name for name in names if name.lower() not in known]


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


@dataclass
class _Run:
    """One picture on its way through the pipeline, its options settled."""

    model: Segmenter
    image: NDArray[np.uint8]
    options: Options
    clock: _Clock
    progress: Callable[[int, int], None]
    named_classes: bool

    def __post_init__(self) -> None:
        mode, pooling, timestep = self.options.mode, self.options.pooling, self.options.timestep
        assert mode is not None
        assert pooling is not None
        assert timestep is not None
        self.mode, self.pooling, self.timestep = mode, pooling, timestep
        self.size = (self.image.shape[0], self.image.shape[1])

    def named(self, classes: Sequence[ClassName]) -> Segmentation:
        """Segment into named classes (Eq. 4–6)."""
        with self.clock.stage("text"):
            text = self.model.encode_text(classes)
        canvas = self._plan()
        if self.mode == "released":
            z = self._encode(canvas)
            features, _ = self._denoise(canvas, z, self._empty())
            square = tiles.squash(self.size, self.model.manifest.native_size)
            z = z if square == canvas else self._encode(square)
            _, logits = self._denoise(square, z, text, features=False)
            extent = square.extent
        else:
            features, logits = self._denoise(canvas, self._encode(canvas), text)
            extent = canvas.extent
        with self.clock.stage("attention"):
            count = len(text.prompts.classes)
            maps = kernels.class_maps(logits, text.prompts.owner, count, self.pooling)
        return self._assign(features, Grid(maps, extent), self.size, text.prompts.classes, canvas)

    def unnamed(self, segments: int | Literal["auto"]) -> Segmentation:
        """Segment by clustering the features of the empty prompt (Eq. 7)."""
        canvas = self._plan()
        features, _ = self._denoise(canvas, self._encode(canvas), self._empty())
        with self.clock.stage("segments"):
            labels, count = kernels.cluster(features, segments, self.options.method)
            weights = kernels.cluster_weights(labels, count)
        names = tuple(f"segment {i + 1}" for i in range(count))
        # Eq. 5 runs over the clustering grid, where the one-hot maps are exact.
        return self._assign(features, weights, kernels.AFFINITY_SIZE, names, canvas)

    def _plan(self) -> Canvas:
        manifest = self.model.manifest
        return tiles.plan(
            self.size, manifest.native_size, manifest.size_multiple, self.options.max_size
        )

    def _empty(self) -> EncodedText:
        with self.clock.stage("text"):
            return self.model.encode_text(None)

    def _assign(
        self,
        features: list[Grid],
        weights: Grid,
        size: tuple[int, int],
        names: tuple[str, ...],
        canvas: Canvas,
    ) -> Segmentation:
        """Prototypes over the grid `size` (Eq. 5), then every pixel's class (Eq. 6)."""
        mode = self.mode
        with self.clock.stage("prototypes"):
            norms = kernels.pixel_norms(features, self.size)
            own = norms if size == self.size else None
            prototypes = kernels.prototypes(features, weights, size, mode, own)
        with self.clock.stage("assign"):
            scores = kernels.score_maps(features, prototypes, mode)
            assigned = kernels.assign(scores, self.size, norms)
            full = kernels.full_scores(scores, self.size, norms) if self.options.scores else None
        assert assigned.confidence is not None
        settings = {
            "mode": mode,
            "pooling": self.pooling if self.named_classes else None,
            "timestep": self.timestep,
            "method": None if self.named_classes else self.options.method,
            "winograd": self.model.winograd,
            "tiles": len(canvas.origins),
            "network_size": list(canvas.content),
        }
        return Segmentation(
            assigned.labels, names, assigned.confidence, full, weights, self.clock.seconds, settings
        )

    def _encode(self, canvas: Canvas) -> Array:
        """z_t of every tile: (tiles, c, h, w), noised by the bundle's fixed noise."""
        with self.clock.stage("vae"):
            return self._encode_tiles(canvas)

    def _encode_tiles(self, canvas: Canvas) -> Array:
        manifest = self.model.manifest
        painted = canvas.paint(self.image)
        latents = []
        for group in tiles.batches(len(canvas.origins), self._batch(canvas)):
            crops = np.stack([canvas.crop(painted, canvas.origins[i]) for i in group])
            latents.append(self.model.vae.infer({contract.IMAGE: crops})[contract.LATENT])
        z = (np.concatenate(latents) - manifest.shift_factor) * manifest.scaling_factor
        alpha = manifest.alphas_cumprod[self.timestep]
        noise = np.stack([self._noise_at(canvas, origin) for origin in canvas.origins])
        z_t = np.sqrt(alpha) * z + np.sqrt(1 - alpha) * noise
        noised: Array = z_t.astype(np.float32)
        return noised

    def _noise_at(self, canvas: Canvas, origin: tuple[int, int]) -> Array:
        """ε under a tile: the stored noise repeated over the canvas."""
        noise, factor = self.model.noise, self.model.manifest.vae_factor
        rows, columns = (
            (np.arange(o // factor, (o + side) // factor)) % noise.shape[1 + axis]
            for axis, (o, side) in enumerate(zip(origin, canvas.tile, strict=True))
        )
        under: Array = noise[:, rows[:, None], columns[None, :]]
        return under

    def _denoise(
        self, canvas: Canvas, z: Array, text: EncodedText, features: bool = True
    ) -> tuple[list[Grid], list[Array]]:
        """One UNet pass a tile and prompt; the outputs stitched.

        Returns:
            features, one grid a stride (the mean over the prompts of a long class list), and
            logits of the class tokens, (heads, tokens, rows, columns) a layer; with pooling
            "softmax" their probabilities.
        """
        with self.clock.stage("unet"):
            return self._denoise_tiles(canvas, z, text, features)

    def _denoise_tiles(
        self, canvas: Canvas, z: Array, text: EncodedText, features: bool
    ) -> tuple[list[Grid], list[Array]]:
        manifest, prompts = self.model.manifest, text.prompts
        levels = manifest.features if features else ()
        layers = manifest.attention if prompts.classes else ()
        tokens = len(prompts.owner)
        maps = {f.name: Stitcher(canvas, f.stride, f.channels) for f in levels}
        maps |= {a.name: Stitcher(canvas, a.stride, a.heads * tokens) for a in layers}
        for tile, outputs in self._unet_outputs(canvas, z, text.hidden, list(maps)):
            for f in levels:
                maps[f.name].add(canvas.origins[tile], outputs[f.name].mean(axis=0))
            for a in layers:
                cells = [side // a.stride for side in canvas.tile]
                logits = self._class_tokens(outputs[a.name], prompts)
                maps[a.name].add(canvas.origins[tile], logits.reshape(-1, *cells))
        grids = [Grid(maps[f.name].result(), canvas.extent) for f in levels]
        stitched = [maps[a.name].result() for a in layers]
        return grids, [
            values.reshape(a.heads, tokens, *values.shape[1:])
            for a, values in zip(layers, stitched, strict=True)
        ]

    def _unet_outputs(
        self, canvas: Canvas, z: Array, hidden: Array, wanted: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Every tile's outputs, stacked over the prompts: (tile, {name: (prompts, …)})."""
        pairs = [(tile, p) for tile in range(len(z)) for p in range(len(hidden))]
        rows: list[dict[str, Array]] = []
        for group in tiles.batches(len(pairs), self._batch(canvas)):
            feeds: dict[str, NDArray[Any]] = {
                contract.SAMPLE: z[[pairs[i][0] for i in group]],
                contract.TIMESTEP: np.full(len(group), self.timestep, dtype=np.int64),
                contract.ENCODER_HIDDEN_STATES: hidden[[pairs[i][1] for i in group]],
            }
            outputs = self.model.unet.infer(feeds, wanted)
            for row, i in enumerate(group):
                rows.append({name: outputs[name][row] for name in wanted})
                if len(rows) == len(hidden):
                    yield pairs[i][0], {n: np.stack([r[n] for r in rows]) for n in wanted}
                    rows = []
            self.progress(group.stop, len(pairs))

    def _class_tokens(self, logits: Array, prompts: Prompts) -> Array:
        """(prompts, heads, pixels, max_length) → the class tokens' (heads, tokens, pixels)."""
        if self.pooling == "softmax":
            logits = kernels.token_softmax(logits)
        return logits[prompts.prompt, :, :, prompts.position].transpose(1, 0, 2)

    def _batch(self, canvas: Canvas) -> int:
        return max(1, PIXELS_AT_ONCE // (canvas.tile[0] * canvas.tile[1]))
