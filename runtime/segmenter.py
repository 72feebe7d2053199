"""The pipeline: tile → encode → denoise → pool attention → prototypes → assign."""

from __future__ import annotations

import math
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
from ..kernels import Array, Grid, Method, Mode, Pooling
from . import contract, tiles
from .backend import choose_backend, on_other_sessions
from .bundle import Bundle, load_bundle
from .device import Device
from .errors import BundleError, DeviceMemoryError, MdrtError
from .images import check_image, read_image
from .prompts import ClassName, Prompts, PromptTokenizer, synonyms
from .session import Session
from .tiles import Canvas, Stitcher
from .trace import Trace

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
        timings: seconds per stage, in the order in which they ran; on a GPU, of its own clock.
        settings: what was used: mode, pooling, timestep, method, backend, Winograd convolutions,
            tiles.
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

    `hidden` is (prompts, max_length, hidden) float32, on the model's device.
    """

    prompts: Prompts
    hidden: Array


@dataclass
class _Clock:
    """Times stages by the device's marks, which it need not wait for."""

    device: Device
    trace: Trace | None = None
    stages: list[tuple[str, Any, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.device.mark()
        with self.trace.span(name) if self.trace else nullcontext():
            yield
        self.stages.append((name, start, self.device.mark()))

    def seconds(self) -> dict[str, float]:
        """By stage, in the order of their first start; when all is done."""
        total: dict[str, float] = {}
        for name, start, end in self.stages:
            total[name] = total.get(name, 0.0) + self.device.seconds(start, end)
        return total


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
        provider: str | None = None,
        threads: int | None = None,
        winograd: bool | None = None,
        verify: bool = True,
        cuda_graphs: bool = True,
        trace: Trace | None = None,
        open_graph: Callable[[Path], Session] | None = None,
    ) -> None:
        """Load a bundle.

        Args:
            engine: bundle directory or its `unet.onnx`, run by ONNX Runtime; or its `unet.plan`,
                run by TensorRT. None takes the embedded model.
            provider: where ONNX Runtime runs, see `ort.PROVIDERS`; None: on the CPU.
            threads: of one operator; None takes every core.
            winograd: large convolutions by minimal filtering, on a CPU about three times as fast
                and within about 1e-5 of the direct ones; None: where bundle and install have it.
            verify: check every file's SHA-256 before trusting it; a large one's is remembered
                until the file changes.
            cuda_graphs: capture what TensorRT engines run repeatedly.
            trace: where to note when each stage and each node of the graphs ran.
            open_graph: loads a graph into a session of another runtime, in the place of ONNX
                Runtime with the options above.

        Raises:
            BundleError: the bundle is missing, damaged, of another schema, or its graphs are not
                what its manifest says.
            ProviderError: the provider is unknown or not installed or cannot compute in the
                bundle's precision, or `winograd` is True and cannot be had.
            EngineError: an engine does not load: its library is missing, or it is for another GPU.
            DeviceMemoryError: the model does not fit into the GPU's memory.
        """
        self.bundle: Bundle = load_bundle(EMBEDDED if engine is None else engine, verify)
        self.manifest = self.bundle.manifest
        if open_graph is None:
            self.backend = choose_backend(
                self.bundle, provider, threads, winograd, trace is not None, cuda_graphs
            )
        else:
            self.backend = on_other_sessions(self.bundle, open_graph)
        self.device = self.backend.device
        self.vae, text, self.unet = map(self.backend.open, self.backend.files)
        _check_axes(self.bundle, self.vae, text, self.unet)
        self._text: Session | None = text
        self.rows = self.backend.rows
        """Most rows of a batch; lowered when the device's memory does not suffice for more."""
        self._tokenizer = PromptTokenizer(self.bundle.tokenizer, self.manifest.tokenizer)
        with self.device.active():
            self.noise = self.device.upload(self.bundle.noise())
        self._trace = trace
        self._texts: dict[tuple[str, ...], Array] = {}

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
            DeviceMemoryError: memory did not suffice, not even for one row at a time.
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
        clock = _Clock(self.device, self._trace)
        with self.device.active():
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

    @property
    def text(self) -> Session:
        """The text encoder, loaded again if it was released."""
        if self._text is None:
            self._text = self.backend.open(self.backend.files[1])
        return self._text

    def release_text(self) -> None:
        """Give back the memory of the text encoder; a class list not yet encoded loads it again."""
        self._text = None
        self.device.free()

    def encode_text(self, classes: Sequence[ClassName] | None) -> EncodedText:
        """Embeddings of a class list; of the empty prompt for None. Kept for next time."""
        tokenizer = self._tokenizer
        prompts = tokenizer.empty() if classes is None else tokenizer.encode(classes)
        key = prompts.texts
        if key not in self._texts:
            if len(self._texts) >= 8:
                self._texts.pop(next(iter(self._texts)))
            with self.device.active():
                self._texts[key] = self._embed(prompts.input_ids)
        # The same texts can stand for other groupings of synonyms: the embeddings are shared.
        return EncodedText(prompts, self._texts[key])

    def _embed(self, input_ids: NDArray[np.int64]) -> Array:
        """(prompts, max_length, hidden) of (prompts, max_length) token ids."""
        ids, parts = self.device.upload(input_ids), []
        for group in tiles.batches(len(ids), self.rows or len(ids)):
            outputs = self.text.infer({contract.INPUT_IDS: ids[group.start : group.stop]})
            parts.append(outputs[contract.ENCODER_HIDDEN_STATES].copy())  # a buffer filled anew
        hidden: Array = self.device.xp.concatenate(parts)
        return hidden

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
            self.size,
            manifest.native_size,
            manifest.size_multiple,
            self.options.max_size,
            self.model.backend.least,
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
        with self.clock.stage("download"):
            labels, confidence, maps, *rest = self.model.device.download(
                assigned.labels,
                assigned.confidence,
                weights.values,
                *([] if full is None else [full]),
            )
        settings = {
            "mode": mode,
            "pooling": self.pooling if self.named_classes else None,
            "timestep": self.timestep,
            "method": None if self.named_classes else self.options.method,
            "backend": self.model.backend.name,
            "winograd": self.model.backend.winograd,
            "tiles": len(canvas.origins),
            "network_size": list(canvas.content),
        }
        return Segmentation(
            labels,
            names,
            confidence,
            rest[0] if rest else None,
            Grid(maps, weights.extent),
            self.clock.seconds(),
            settings,
        )

    def _encode(self, canvas: Canvas) -> Array:
        """z_t of every tile: (tiles, c, h, w), noised by the bundle's fixed noise."""
        with self.clock.stage("vae"):
            return self._encode_tiles(canvas)

    def _encode_tiles(self, canvas: Canvas) -> Array:
        model, manifest = self.model, self.model.manifest
        device, factor = model.device, manifest.vae_factor
        pixels = tiles.to_network(device.upload(canvas.paint(self.image)))

        def infer(group: range) -> dict[str, Array]:
            crops = device.xp.stack([canvas.crop(pixels, canvas.origins[i]) for i in group])
            return model.vae.infer({contract.IMAGE: crops})

        latents = [
            (outputs[contract.LATENT] - manifest.shift_factor) * manifest.scaling_factor
            for _, outputs in self._in_batches(len(canvas.origins), canvas, infer)
        ]
        alpha, noise = manifest.alphas_cumprod[self.timestep], self._noise(canvas)
        under = [canvas.crop(noise, origin, factor) for origin in canvas.origins]
        z_t: Array = math.sqrt(alpha) * device.xp.concatenate(latents)
        z_t += math.sqrt(1 - alpha) * device.xp.stack(under)
        return z_t

    def _noise(self, canvas: Canvas) -> Array:
        """ε under the canvas: the stored noise repeated over it."""
        noise, factor = self.model.noise, self.model.manifest.vae_factor
        rows, columns = (side // factor for side in canvas.size)
        times = (1, math.ceil(rows / noise.shape[1]), math.ceil(columns / noise.shape[2]))
        under: Array = self.model.device.xp.tile(noise, times)[:, :rows, :columns]
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
        manifest, prompts, device = self.model.manifest, text.prompts, self.model.device
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
        wanted = [*grids, *maps]
        for tile, prompt, outputs in self._unet_outputs(canvas, z, text.hidden, wanted):
            origin = canvas.origins[tile]
            for f in levels:
                grids[f.name].add(origin, outputs[f.name])
            for a in layers:
                cells = [side // a.stride for side in canvas.tile]
                own = self._class_tokens(outputs[a.name], positions[prompt])
                maps[a.name][prompt].add(origin, own.reshape(-1, *cells))
        logits = []
        for a in layers:
            stitched = [part.result() for part in maps[a.name]]
            by_head = [part.reshape(a.heads, -1, *part.shape[1:]) for part in stitched]
            logits.append(device.xp.concatenate(by_head, axis=1))
        return [Grid(grids[f.name].result(), canvas.extent) for f in levels], logits

    def _unet_outputs(
        self, canvas: Canvas, z: Array, hidden: Array, wanted: Sequence[str]
    ) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """What every tile and prompt gives: (tile, prompt, {name: one row}), to be used at once:
        the session may fill its buffers anew."""
        xp = self.model.device.xp
        pairs = [(tile, prompt) for tile in range(len(z)) for prompt in range(len(hidden))]

        def infer(group: range) -> dict[str, Array]:
            rows = [pairs[i] for i in group]
            feeds = {
                contract.SAMPLE: xp.stack([z[tile] for tile, _ in rows]),
                contract.TIMESTEP: xp.full(len(rows), self.timestep, dtype="int64"),
                contract.ENCODER_HIDDEN_STATES: xp.stack([hidden[prompt] for _, prompt in rows]),
            }
            return self.model.unet.infer(feeds, wanted)

        for group, outputs in self._in_batches(len(pairs), canvas, infer):
            for row, i in enumerate(group):
                yield *pairs[i], {name: outputs[name][row] for name in wanted}
            self.progress(group.stop, len(pairs))

    def _class_tokens(self, logits: Array, positions: Array) -> Array:
        """(heads, pixels, max_length) → the class tokens' (heads, tokens, pixels)."""
        if self.pooling == "softmax":
            logits = kernels.token_softmax(logits)
        return logits[:, :, positions].transpose(0, 2, 1)

    def _in_batches(
        self, count: int, canvas: Canvas, infer: Callable[[range], dict[str, Array]]
    ) -> Iterator[tuple[range, dict[str, Array]]]:
        """Run `count` rows through a graph, as many at once as profile and memory allow."""
        model, start = self.model, 0
        while start < count:
            most = max(1, PIXELS_AT_ONCE // (canvas.tile[0] * canvas.tile[1]))
            group = range(start, min(start + min(most, model.rows or most), count))
            try:
                outputs = infer(group)
            except DeviceMemoryError:
                if len(group) == 1:
                    raise
                model.rows = len(group) // 2
                model.device.free()
                continue
            yield group, outputs
            start = group.stop
