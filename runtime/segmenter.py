"""The pipeline: tile → encode → denoise → pool attention → prototypes → assign."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import Array, Grid, Method, Mode, Pooling
from .bundle import contract
from .bundle.loading import Bundle, load_bundle
from .errors import MdrtError
from .labels import label_pixels
from .look import tiles
from .look.network import EncodedText, Network, Seen
from .look.prompts import ClassName, synonyms
from .look.tiles import Canvas
from .pictures.bands import bands
from .pictures.images import check_image, read_image
from .sessions.backend import choose_backend, on_other_sessions
from .sessions.base import Session
from .sessions.device import Device
from .sessions.trace import Trace

EMBEDDED: Final = Path(str(files("mdrt.assets"))) / "scenes"
"""The bundle that comes with the package: the scenes world's own model."""

ONE_COLOUR: Final = 8
"""A picture in which no channel spans more levels than this holds nothing to tell apart, even where
features vary from place to place, as a denoiser's do that was never shown an empty picture."""


@dataclass(frozen=True)
class Options:
    """How to segment. None takes what the bundle recommends.

    Attributes:
        mode: "paper" (Eq. 5–6 as written) or "released" (as the official code does it: features
            of the empty prompt, normalised before they are averaged, attention of the picture
            as one square, without noise).
        pooling: how logits (Eq. 4) become class maps: "exp" (the official code's), "softmax" over
            tokens, or "logit" as they are.
        timestep: index into ᾱ, 0 is the paper's t = 1.
        method: how unnamed segments are found: "spectral", or "kmeans" (the paper's baseline).
        max_size: longer side in pixels a picture is reduced to for the network; None keeps it.
            No picture goes below the bundle's native size: smaller ones are enlarged to it.
        scores: keep the score of every class at every pixel.
        presence: leave out classes that win less than this share of the attention's cells, in
            [0, 1): they are taken to be absent. 0 keeps all; others need pooling "softmax".
        sharpness: a positive power; 1 is the paper's. Of named classes: of a class's map before
            its prototype is averaged with it (Eq. 5), so that 2 trusts the map's peaks more. Of
            unnamed segments: of the affinity (Eq. 7), which sets like cells apart from others.
        attention: the share in [0, 1] of a class's own map in a pixel's score, where the cosine
            (Eq. 6) has the rest; 0 is the paper's, 1 the maps alone.
        refine: let boundaries follow the picture's edges (`mdrt.kernels.edges`), which the
            network's cells are too coarse for.
    """

    mode: Mode | None = None
    pooling: Pooling | None = None
    timestep: int | None = None
    method: Method = "spectral"
    max_size: int | None = None
    scores: bool = False
    presence: float | None = None
    sharpness: float | None = None
    attention: float | None = None
    refine: bool | None = None

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
        if self.presence is not None and not 0 <= self.presence < 1:
            raise MdrtError(f"presence is {self.presence}, expected a share from 0 to below 1")
        sharp = self.sharpness
        if sharp is not None and not 0 < sharp < float("inf"):
            raise MdrtError(f"sharpness is {sharp}, expected a positive number, as 2")
        if self.attention is not None and not 0 <= self.attention <= 1:
            raise MdrtError(f"attention is {self.attention}, expected a share from 0 to 1")


PAPER: Final = Options(
    mode="paper",
    pooling="exp",
    timestep=contract.PAPER_TIMESTEP,
    presence=0.0,
    sharpness=1.0,
    attention=0.0,
    refine=False,
)
"""The equations as they are, class maps by exp, whatever a bundle recommends."""


@dataclass(frozen=True)
class Segmentation:
    """The result for one picture.

    Attributes:
        labels: (H, W) uint8 or uint16, index into `classes`.
        classes: names; "segment 1", … where there were none.
        confidence: (H, W) float32, cosine of each pixel's features to its class's prototype
            (in mode "released" times the prototype's length), mixed with its class map by
            `attention` and filtered by `refine`; comparable within one picture.
        scores: (classes, H, W) float32, the same for every class, those taken to be absent
            (`presence`) included; None unless asked for.
        weights: the maps a_c that the prototypes were averaged with: attention class maps to
            the power `sharpness`, or one-hot segments; a grid of (classes, rows, columns) in
            [0, 1].
        timings: seconds per stage, in the order in which they ran; on a GPU, of its own clock.
        settings: what was used: mode, pooling, timestep, method, sharpness, attention, presence
            and the classes taken to be absent, refine, backend, nodes of each graph by ONNX
            Runtime's provider (None on the CPU), Winograd convolutions, tiles.
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
        for rows in bands(self.labels.shape):  # bincount widens what it gets to 64 bits
            weights = None if values is None else values[rows].ravel()
            sums += np.bincount(self.labels[rows].ravel(), weights, count)
        return sums


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
        allow_cpu_nodes: bool = False,
        trace: Trace | None = None,
        open_graph: Callable[[Path], Session] | None = None,
        device: Device | None = None,
    ) -> None:
        """Load a bundle.

        Args:
            engine: bundle directory or its `unet.onnx`, run by ONNX Runtime; or its `unet.plan`,
                run by TensorRT. None takes the embedded model.
            provider: where ONNX Runtime runs, see `providers.PROVIDERS`; None: on the CPU.
            threads: of one operator; None takes every core.
            winograd: large convolutions by minimal filtering, on a CPU about three times as fast
                and within about 1e-5 of the direct ones; None: where bundle and install have it.
            verify: check every file's SHA-256 before trusting it; a large one's is remembered
                until the file changes.
            cuda_graphs: capture what TensorRT engines run repeatedly.
            allow_cpu_nodes: let another provider than "cpu" leave nodes to the CPU; what only
                computes sizes always may be there. `settings["nodes"]` of a result counts them.
            trace: where to note when each stage and each node of the graphs ran.
            open_graph: loads a graph into a session of another runtime, in the place of ONNX
                Runtime with the options above.
            device: where the arrays of `open_graph`'s sessions live; the host by default.

        Raises:
            BundleError: the bundle is missing, damaged, of another schema, or its graphs are not
                what its manifest says.
            ProviderError: the provider is unknown or not installed or cannot compute in the
                bundle's precision, or leaves nodes to the CPU; ONNX Runtime is not installed, or
                by several packages; or `winograd` is True and cannot be had.
            EngineError: an engine does not load: its library is missing, or it is for another GPU.
            DeviceMemoryError: the model does not fit into the GPU's memory.
        """
        self.bundle: Bundle = load_bundle(EMBEDDED if engine is None else engine, verify)
        self.manifest = self.bundle.manifest
        backend = (
            choose_backend(
                self.bundle,
                provider,
                threads,
                winograd,
                trace is not None,
                cuda_graphs,
                allow_cpu_nodes,
            )
            if open_graph is None
            else on_other_sessions(self.bundle, open_graph, device)
        )
        self.network = Network(self.bundle, backend)
        self._trace = trace

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
        device = self.network.device
        clock = _Clock(device, self._trace)
        with device.active():
            with clock.stage("image"):
                pixels = read_image(image) if isinstance(image, str | Path) else check_image(image)
            quiet = progress or (lambda done, total: None)
            run = _Run(self.network, pixels, options, clock, quiet, classes is not None)
            if classes is not None:
                return run.named(classes)
            assert segments is not None
            return run.unnamed(segments)

    def settle(self, options: Options, named: bool) -> Options:
        """The options with what the bundle recommends in the place of None.

        Args:
            named: whether for named classes or for unnamed segments.

        Raises:
            MdrtError: the bundle has no such timestep, presence is asked of another pooling than
                softmax, or another sharpness than 1 of k-means.
        """
        recommended, steps = self.manifest.recommended, len(self.manifest.alphas_cumprod)
        timestep = options.timestep
        if timestep is None:
            timestep = recommended.timestep if named else recommended.segments_timestep
        if not 0 <= timestep < steps:
            raise MdrtError(f"timestep is {timestep}, expected 0 to {steps - 1}")
        # The manifest's values were checked against the same choices when it was read.
        mode = options.mode or cast("Mode", recommended.mode)
        pooling = options.pooling or cast("Pooling", recommended.pooling)
        presence = options.presence
        if presence is None:
            presence = recommended.presence if pooling == "softmax" else 0.0
        if presence and pooling != "softmax":
            raise MdrtError(
                f"presence {presence:g} compares probabilities and needs pooling softmax, "
                f"not {pooling}; give presence 0 or the other pooling"
            )
        sharpness, attention, refine = options.sharpness, options.attention, options.refine
        alike = pooling == recommended.pooling  # what suits its maps need not suit another's
        if named:
            best = recommended.sharpness if alike else 1.0
        else:
            best = recommended.segments_sharpness if options.method == "spectral" else 1.0
        sharpness = best if sharpness is None else sharpness
        if not named and options.method == "kmeans" and sharpness != 1:
            raise MdrtError(
                f"sharpness {sharpness:g} is a power of the affinity, which k-means does not use; "
                "give sharpness 1 or method spectral"
            )
        if attention is None:
            attention = recommended.attention if alike else 0.0
        return replace(
            options,
            mode=mode,
            pooling=pooling,
            timestep=timestep,
            presence=presence,
            sharpness=sharpness,
            attention=attention if named else 0.0,
            refine=recommended.refine if refine is None else refine,
        )

    def unknown(self, classes: Sequence[ClassName]) -> list[str]:
        """The names that a closed-vocabulary model has never seen; empty for an open one."""
        if not self.manifest.classes:
            return []
        known = {name.lower() for name in (*self.manifest.classes, *self.manifest.synonyms)}
        names = [name for synonymous in classes for name in synonyms(synonymous)]
        return [name for name in names if name.lower() not in known]


@dataclass
class _Run:
    """One picture on its way through the pipeline, its options settled."""

    network: Network
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
        """Segment into named classes (Eq. 4–6).

        In mode "released" attention is of the picture as one square, without noise: the official
        code's inversion is a single step, which returns the latent as it is.
        """
        with self.clock.stage("text"):
            text = self.network.encode_text(classes)
        canvas, native, grid = self._plan(), self.network.manifest.native_size, None
        if self.mode == "released":
            z = self._encode(canvas)
            features = self._denoise(canvas, z, self._empty()).features
            square, grid = tiles.squash(self.size, native), tiles.squash_grid(native)
            z = z if square == canvas else self._encode(square)
            seen = self._denoise(square, z, text, features=False, noise=False)
            extent = square.extent
        else:
            seen, extent = self._denoise(canvas, self._encode(canvas), text), canvas.extent
            features = seen.features
        with self.clock.stage("attention"):
            count = len(text.prompts.classes)
            owner = text.prompts.owner
            pooled = kernels.class_maps(seen.logits, owner, count, self.pooling, grid)
            maps = Grid(pooled, extent)
            weights = replace(maps, values=maps.values**self.options.sharpness)
            absent = None
            if self.options.presence:
                won = kernels.won_shares(seen.logits, owner, count, grid)
                absent = kernels.absent(won, self.options.presence)
        names = text.prompts.classes
        return self._assign(features, weights, self.size, names, canvas, maps, absent)

    def unnamed(self, segments: int | Literal["auto"]) -> Segmentation:
        """Segment by clustering the features of the empty prompt (Eq. 7)."""
        if segments == "auto" and int(np.ptp(self.image, axis=(0, 1)).max()) <= ONE_COLOUR:
            segments = 1
        canvas = self._plan()
        features = self._denoise(canvas, self._encode(canvas), self._empty()).features
        with self.clock.stage("segments"):
            method, sharpness = self.options.method, self.options.sharpness
            assert sharpness is not None
            labels, count = kernels.cluster(features, segments, method, sharpness)
            weights = kernels.cluster_weights(labels, count)
        names = tuple(f"segment {i + 1}" for i in range(count))
        # Eq. 5 runs over the clustering grid, where the one-hot maps are exact.
        return self._assign(features, weights, weights.size, names, canvas)

    def _plan(self) -> Canvas:
        manifest, least = self.network.manifest, self.network.backend.least
        return tiles.plan(
            self.size, manifest.native_size, manifest.size_multiple, self.options.max_size, least
        )

    def _empty(self) -> EncodedText:
        with self.clock.stage("text"):
            return self.network.encode_text(None)

    def _encode(self, canvas: Canvas) -> Array:
        with self.clock.stage("vae"):
            return self.network.encode(self.image, canvas)

    def _denoise(
        self,
        canvas: Canvas,
        z: Array,
        text: EncodedText,
        features: bool = True,
        noise: bool = True,
    ) -> Seen:
        with self.clock.stage("unet"):
            return self.network.denoise(
                canvas,
                z,
                text,
                self.timestep,
                noise=noise,
                features=features,
                probabilities=self.pooling == "softmax",
                progress=self.progress,
            )

    def _assign(
        self,
        features: Sequence[Grid],
        weights: Grid,
        size: tuple[int, int],
        names: tuple[str, ...],
        canvas: Canvas,
        maps: Grid | None = None,
        absent: Array | None = None,
    ) -> Segmentation:
        """Prototypes over the grid `size` (Eq. 5), then every pixel's class (Eq. 6), where class
        maps may have a share; but for those of the mask `absent` (classes,)."""
        mode, attention, refine = self.mode, self.options.attention or 0.0, self.options.refine
        with self.clock.stage("prototypes"):
            plain = not (attention or refine)  # else cosines are formed on a small grid
            norms = kernels.pixel_norms(features, self.size) if plain else None
            own = norms if size == self.size else None
            prototypes = kernels.prototypes(features, weights, size, mode, own)
        with self.clock.stage("assign"):
            scores = kernels.score_maps(features, prototypes, mode)
            assigned, full = label_pixels(
                self.network.device,
                self.image,
                features,
                scores,
                maps=maps,
                attention=attention,
                refine=refine or False,
                absent=absent,
                norms=norms,
                keep=self.options.scores,
            )
        assert assigned.confidence is not None
        every = [assigned.labels, assigned.confidence, weights.values]
        extra = [values for values in (absent, full) if values is not None]
        with self.clock.stage("download"):
            wait = self.network.device.download(*every, *extra)
        labels, confidence, averaged, *rest = wait()
        missing = [] if absent is None else [names[i] for i in np.flatnonzero(rest.pop(0))]
        settings = {
            "mode": mode,
            "pooling": self.pooling if self.named_classes else None,
            "timestep": self.timestep,
            "method": None if self.named_classes else self.options.method,
            "sharpness": self.options.sharpness,
            "attention": self.options.attention if self.named_classes else None,
            "presence": self.options.presence if self.named_classes else None,
            "absent": missing,
            "refine": self.options.refine,
            "backend": self.network.backend.name,
            "nodes": self.network.nodes or None,
            "winograd": self.network.backend.winograd,
            "tiles": len(canvas.origins),
            "network_size": list(canvas.content),
        }
        return Segmentation(
            labels,
            names,
            confidence,
            rest[0] if rest else None,
            Grid(averaged, weights.extent),
            self.clock.seconds(),
            settings,
        )
