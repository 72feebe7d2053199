"""The pipeline: look → head → labels → download.

A look shows what the networks see of a picture, a head reads it, `label_pixels` brings the reading
to every pixel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels import Grid, Size, void
from .bundle import contract
from .bundle.loading import Bundle, load_bundle
from .errors import (
    BundleError,
    EmbeddedModelWarning,
    MdrtError,
    MdrtWarning,
    UnknownNameWarning,
)
from .heads import HEADS, Head, HeadOptions, Reading, default_head, find_head, offer
from .labels import label_pixels
from .look.clock import StageClock
from .look.network import Network
from .look.prompts import ClassName, synonyms
from .look.taps import Taps
from .look.words import EncodedText
from .overlap import ahead
from .pictures.images import ImageLike, read_image, source_name
from .segmentation import Segmentation, by_share
from .sessions.backend import choose_backend, on_other_sessions
from .sessions.base import Session
from .sessions.device import Device
from .sessions.trace import Trace
from .turn import Turn

EMBEDDED: Final = Path(str(files("mdrt.assets"))) / "scenes"
"""The bundle that comes with the package: the scenes world's own model."""

EMBEDDED_KNOWS: Final = (
    "the embedded model knows drawn scenes only; for photographs run `mdrt export "
    "stable-diffusion-v1-5/stable-diffusion-v1-5 --out sd15` (4.3 GB), then take engine sd15"
)
"""What every run of it says."""

Count = int | Literal["auto"]
Progress = Callable[[int, int], None]


class Segmenter:
    """A loaded model. Load once, look at a picture once, ask as often as you like.

    segmenter = mdrt.Segmenter()
    look = segmenter.look("beach.jpg")
    look.segment(["sky", "sand", ("water", "sea")])    # the networks run, once
    look.segment(["sky", "sand", "person"])            # other words
    look.segments("auto", head="spectral", refine="guided")

    segmenter("beach.jpg", ["sky", "sand"])            # all of it in one call

    Any thread may call a segmenter and its looks. Networks and what is kept are used by one call at
    a time: a call waits until another thread's has ended. Several segmenters in one process compute
    side by side. A result shares nothing with its segmenter. After `os.fork` a child loads its own:
    one that was loaded before is an error there.
    """

    def __init__(
        self,
        engine: str | Path | None = None,
        *,
        provider: str | None = None,
        threads: int | None = None,
        operators: str | None = None,
        verify: bool = True,
        cuda_graphs: bool = True,
        allow_cpu_nodes: bool = False,
        trace: Trace | None = None,
        open_graph: Callable[[Path], Session] | None = None,
        device: Device | None = None,
    ) -> None:
        """Load a bundle.

        Args:
            engine: bundle directory or its network's graph, as `unet.onnx`, run by ONNX Runtime; or
                its engine, as `unet.plan`, run by TensorRT. None takes the embedded model.
            provider: where ONNX Runtime runs, see `providers.PROVIDERS`; None: on the CPU.
            threads: of one operator; None takes every core. NumPy's products take one in any case.
            operators: whose operators run the graphs on a CPU: mdrt's own by bfloat16 products
                ("bf16x3", for processors with tiles for them, AMX) or in float32 ("winograd"),
                both within about 1e-5 of ONNX Runtime's ("onnxruntime") and up to three times as
                fast; None: the fastest that bundle, install and processor have.
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
            BundleError: the bundle is missing, damaged, of another schema, its graphs are not what
                its manifest says, or it recommends what no head takes.
            ProviderError: the provider is unknown or not installed or cannot compute in the
                bundle's precision, or leaves nodes to the CPU; ONNX Runtime is not installed, or
                by several packages; or `operators` cannot be had.
            EngineError: an engine does not load: its library is missing, or it is for another GPU.
            DeviceMemoryError: the model does not fit into the GPU's memory.
        """
        self.bundle: Bundle = load_bundle(EMBEDDED if engine is None else engine, verify)
        self.manifest = self.bundle.manifest
        _check_recommended(self)
        backend = (
            choose_backend(
                self.bundle,
                provider,
                threads,
                operators,
                trace is not None,
                cuda_graphs,
                allow_cpu_nodes,
            )
            if open_graph is None
            else on_other_sessions(self.bundle, open_graph, device)
        )
        self.network = Network(self.bundle, backend)
        self.turn: Final = Turn()
        """Held by the thread whose call it is."""
        self._trace = trace
        if self.bundle.path == EMBEDDED:
            warnings.warn(EMBEDDED_KNOWS, EmbeddedModelWarning, stacklevel=2)

    def __call__(
        self,
        image: ImageLike,
        classes: Sequence[ClassName] | None = None,
        *,
        segments: Count | None = None,
        head: str | Head | None = None,
        scores: bool = False,
        max_size: int | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Segmentation:
        """Look at a picture and segment it, into named classes or into unnamed segments.

        Args:
            image, max_size, progress: as for `look`.
            classes: names; a tuple of names is one class with synonyms.
            segments: how many unnamed segments, or "auto"; instead of `classes`.
            head, scores, settings: as for `Look.segment`.

        Raises:
            MdrtError: both or neither of `classes` and `segments` were given; and what `look`,
                `Look.segment` and `Look.segments` raise.
        """
        ask = self._question(classes, segments, head, scores, settings)
        return ask(self.look(image, max_size=max_size, progress=progress))

    def stream(
        self,
        images: Iterable[ImageLike],
        classes: Sequence[ClassName] | None = None,
        *,
        segments: Count | None = None,
        head: str | Head | None = None,
        scores: bool = False,
        max_size: int | None = None,
        errors: Literal["raise", "yield"] = "raise",
        **settings: Any,
    ) -> Iterator[Segmentation | Exception]:
        """Segment picture after picture, in order; while one is worked on the next is read.

        Args:
            images: each as for `look`; taken one ahead, so that a generator may feed it.
            classes, segments, head, scores, max_size, settings: as for a call.
            errors: what is done of a picture that fails: "raise" its error, or "yield" it in the
                place of the result and go on.

        Raises:
            MdrtError: as for a call; what is wrong with the question, before any picture is read.
        """
        ask = self._question(classes, segments, head, scores, settings)
        if isinstance(images, str | bytes):
            raise MdrtError("images is one picture, expected several: a list or another iterable")
        if errors not in ("raise", "yield"):
            raise MdrtError(f"errors is {errors!r}, expected 'raise' or 'yield'")

        def results() -> Iterator[Segmentation | Exception]:
            for image, arrived in ahead(images, read_image):
                try:
                    pixels, source = arrived.result(), source_name(image)
                    yield ask(self.look(pixels, max_size=max_size, source=source))
                except Exception as error:
                    if errors == "raise":
                        raise
                    yield error

        return results()

    def look(
        self,
        image: ImageLike,
        *,
        max_size: int | None = None,
        progress: Progress | None = None,
        source: str | None = None,
    ) -> Look:
        """A look at one picture. Nothing is computed yet.

        Args:
            image: of any size and aspect, as for `read_image`: a path, bytes, an open file, a
                Pillow image or a uint8 array in RGB order.
            max_size: longer side in pixels the picture is reduced to for the network; None keeps
                it. No picture goes below the bundle's native size: smaller ones are enlarged to it.
            progress: called with (passes done, passes in all) while the network runs.
            source: where it is from, for results to tell; None: its path, where it has one.

        Raises:
            ImageError: it cannot be read, or is no picture.
            MdrtError: `max_size` is below 1.
        """
        if max_size is not None and max_size < 1:
            raise MdrtError(f"max_size is {max_size}, expected at least 1 pixel")
        progress = progress or (lambda done, total: None)
        return Look(self, image, max_size, progress, self._trace, source)

    def prepare(self, classes: Sequence[ClassName]) -> EncodedText:
        """Encode names before a picture needs them: wrong ones cost no picture, and the first
        picture waits for none. The latest lists are kept.

        Raises:
            PromptError: the names cannot be a prompt.
        """
        with self.turn:
            text = self.network.words.encode(classes)
        if unknown := self.unknown(classes):
            shown = ", ".join(map(self._with_nearest, unknown[:8])) + " …" * (len(unknown) > 8)
            warnings.warn(
                f"{self.manifest.model_id} never saw {shown}; it knows "
                f"{', '.join(self.manifest.classes)}. A Stable Diffusion checkpoint knows others",
                UnknownNameWarning,
                stacklevel=3,
            )
        return text

    def settle(self, head: str | Head, **settings: Any) -> Any:
        """A head's options, complete: what is given, else what the bundle recommends, else the
        default. Given back as settings (`**vars(options)`) they are the same options.

        Raises:
            MdrtError: the head has no such setting, a value is outside its range, or the bundle
                has no such timestep or strides, or does not give out what the head reads.
        """
        head = find_head(head)
        if lacking := head.lacks(self.manifest):
            raise MdrtError(
                f"head {head.name} reads {lacking}, which {self.bundle.path} does not give out; it "
                f"{offer(self.manifest)}; take one of these, or export it again with them"
            )
        recommended = dict(self.manifest.recommended.get(head.name, {}))
        if self.manifest.noise is None:
            recommended["timestep"] = 0  # there is no other
        if hasattr(head.options, "features") and not self.manifest.encoder:
            recommended["features"] = "decoder"  # likewise
        options = head.settle(recommended, settings)
        self._check_settled(options)
        return options

    def head(self, head: str | Head | None, kind: Literal["named", "unnamed"]) -> Head:
        """A head by its name, None for the first that the bundle recommends or else serves.

        Raises:
            MdrtError: there is none of this name, or none of the kind that the bundle serves.
        """
        return default_head(self.manifest, kind) if head is None else find_head(head)

    def unknown(self, classes: Sequence[ClassName]) -> list[str]:
        """The names that a closed-vocabulary model has never seen; empty for an open one."""
        if not self.manifest.classes:
            return []
        known = {name.lower() for name in (*self.manifest.classes, *self.manifest.synonyms)}
        names = [name for synonymous in classes for name in synonyms(synonymous)]
        return [name for name in names if name.lower() not in known]

    def close(self) -> None:
        """Give back what the graphs take, when the call under way has ended; nothing in a fork."""
        if self.turn.ours:
            with self.turn:
                self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _with_nearest(self, name: str) -> str:
        """A name that is not known, with the known one that it may be meant for."""
        nearest = get_close_matches(name.lower(), self.manifest.classes, 1, 0.7)
        return f"{name} ({nearest[0]}?)" if nearest else name

    def _question(
        self,
        classes: Sequence[ClassName] | None,
        segments: Count | None,
        head: str | Head | None,
        scores: bool,
        settings: Mapping[str, Any],
    ) -> Callable[[Look], Segmentation]:
        """What is asked of a look, its settings checked: wrong ones cost no picture's reading."""
        if (classes is None) == (segments is None):
            both = "both were given" if segments is not None else "neither was given"
            raise MdrtError(f"give either classes (names) or segments (a number or 'auto'); {both}")
        chosen = self.head(head, "unnamed" if classes is None else "named")
        options = vars(self.settle(chosen, **settings))
        if classes is not None:
            return lambda look: look.segment(classes, chosen, scores=scores, **options)
        count = _checked_count(segments)
        return lambda look: look.segments(count, chosen, scores=scores, **options)

    def _check_settled(self, options: HeadOptions) -> None:
        manifest, levels = self.manifest, self.manifest.levels
        if options.timestep >= levels:
            raise MdrtError(
                f"timestep is {options.timestep}, expected 0 to {levels - 1}"
                if manifest.noise
                else f"timestep is {options.timestep}, and {manifest.model_id} sees no noise; "
                "leave it out"
            )
        if getattr(options, "words", None) == "late" and manifest.late != manifest.attention:
            raise MdrtError(
                f"words is 'late', and the attention of {manifest.model_id} does not follow from "
                "queries and words alone; expected 'driven'"
            )
        for name, outputs in (
            ("feature_strides", manifest.features),
            ("attention_strides", manifest.attention),
        ):
            known = {output.stride for output in outputs}
            for stride in getattr(options, name, None) or ():
                if stride not in known:
                    raise MdrtError(
                        f"{name} holds {stride}, and the bundle has "
                        f"{', '.join(map(str, sorted(known, reverse=True)))}"
                    )


class Look:
    """One look at one picture: what the networks show of it is computed when a head first asks
    for it and kept, so that other words, other heads and other settings cost what they add."""

    def __init__(
        self,
        segmenter: Segmenter,
        image: ImageLike,
        max_size: int | None,
        progress: Progress,
        trace: Trace | None,
        source: str | None = None,
    ) -> None:
        self._segmenter, self._device = segmenter, segmenter.network.device
        self._max_size = max_size
        self._clock = StageClock(self._device, trace)
        with self._clock.stage("image"):
            pixels = read_image(image)
        self.source = source_name(image) if source is None else source
        self.taps = Taps(segmenter.network, pixels, self._clock, max_size, progress)

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return self.taps.image

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        return self.taps.size

    @property
    def nbytes(self) -> int:
        """Bytes of the picture and of what was computed and is kept."""
        with self._segmenter.turn:
            return self.image.nbytes + self.taps.nbytes

    def segment(
        self,
        classes: Sequence[ClassName],
        head: str | Head | None = None,
        *,
        scores: bool = False,
        **settings: Any,
    ) -> Segmentation:
        """Every pixel's class, of names.

        Args:
            classes: names; a tuple of names is one class with synonyms.
            head: a named head, see `mdrt.heads.HEADS`; None: the first that the bundle recommends,
                or else serves.
            scores: keep the score of every class at every pixel.
            settings: of the head; what is not given is as the bundle recommends.

        Raises:
            PromptError: the names cannot be a prompt.
            MdrtError: the head is none or finds unnamed segments, or a setting is wrong.
            DeviceMemoryError: memory did not suffice, not even for one row at a time.
        """
        chosen, options = self._settle(head, "named", settings)
        with self._segmenter.turn, self._device.active():
            with self.taps.stage("text"):
                text = self._segmenter.prepare(classes)
            reading = chosen.read(self.taps.mirrored(options.mirror), options, text)
            read = text.prompts.texts if chosen.sentences is None else chosen.sentences(options)
            asked = {"prompts": list(read)}
            return self._label(chosen, options, asked, reading, text.prompts.classes, scores)

    def segments(
        self,
        count: Count = "auto",
        head: str | Head | None = None,
        *,
        scores: bool = False,
        **settings: Any,
    ) -> Segmentation:
        """Segments without names.

        Args:
            count: how many, or "auto". The largest becomes "segment 1".
            head: an unnamed head; None as for `segment`.
            scores, settings: as for `segment`.

        Raises:
            MdrtError: the count is none, the head is none or needs names, or a setting is wrong.
            DeviceMemoryError: memory did not suffice, not even for one row at a time.
        """
        count = _checked_count(count)
        chosen, options = self._settle(head, "unnamed", settings)
        chosen.check_count(count)
        with self._segmenter.turn, self._device.active():
            reading = chosen.read(self.taps.mirrored(options.mirror), options, count)
            names = tuple(f"segment {i + 1}" for i in range(len(reading.scores[0].values)))
            asked = {"segments": count}
            return by_share(self._label(chosen, options, asked, reading, names, scores))

    def __repr__(self) -> str:
        height, width = self.size
        return f"<Look at {self.source or 'a picture'}, {width}×{height}>"

    def release(self) -> None:
        """Let go what was computed; what is asked for again is computed again."""
        with self._segmenter.turn:
            self.taps.release()

    def _settle(
        self, head: str | Head | None, kind: Literal["named", "unnamed"], settings: dict[str, Any]
    ) -> tuple[Head, Any]:
        found = self._segmenter.head(head, kind)
        if found.kind != kind:
            fitting = ", ".join(name for name, other in HEADS.items() if other.kind == kind)
            wanted = "takes no names" if kind == "named" else "needs names"
            raise MdrtError(f"head {found.name} {wanted}; choose of {fitting}")
        return found, self._segmenter.settle(found, **settings)

    def _label(
        self,
        head: Head,
        options: HeadOptions,
        asked: Mapping[str, Any],
        reading: Reading,
        names: tuple[str, ...],
        keep: bool,
    ) -> Segmentation:
        """The reading at every pixel, on the host."""
        network, absent = self._segmenter.network, reading.absent
        with self.taps.stage("assign"):
            assigned, full = label_pixels(
                self.taps, reading, options.refine, options.void_below, keep
            )
        assert assigned.confidence is not None
        extra = [values for values in (absent, full) if values is not None]
        with self.taps.stage("download"):
            wait = self._device.download(
                assigned.labels, assigned.confidence, reading.weights.values, *extra
            )
        labels, confidence, weights, *rest = wait()
        if options.void_below and (labels == void(labels)).all():
            warnings.warn(
                f"no pixel reaches threshold {options.void_below:g}; the highest score is "
                f"{confidence.max():.3f}",
                MdrtWarning,
                stacklevel=3,
            )
        missing = [] if absent is None else [names[i] for i in np.flatnonzero(rest.pop(0))]
        settings = {
            "head": head.name,
            **vars(options),
            **asked,
            "max_size": self._max_size,
            "absent": missing,
            "backend": network.backend.name,
            "nodes": network.nodes or None,
            "operators": network.backend.operators,
            "tiles": len(self.taps.canvas.origins),
            "network_size": list(self.taps.canvas.content),
        }
        return Segmentation(
            labels,
            names,
            confidence,
            rest[0] if rest else None,
            Grid(weights, reading.weights.extent),
            self._clock.seconds(),
            settings,
            self.taps.image,
            self.source,
            network.manifest.model_id,
            network.manifest.sha256,
        )


def _checked_count(count: Count | None) -> Count:
    """How many segments, as asked.

    Raises:
        MdrtError: it is no number of segments.
    """
    if count == "auto":
        return "auto"
    if isinstance(count, int | np.integer) and 1 <= count <= contract.MOST_SEGMENTS:
        return int(count)
    raise MdrtError(f"segments is {count!r}, expected 1 to {contract.MOST_SEGMENTS} or 'auto'")


def _check_recommended(segmenter: Segmenter) -> None:
    """See that what the bundle recommends is what heads take; heads that are not known here are
    another version's.

    Raises:
        BundleError: it is not.
    """
    manifest = segmenter.manifest
    for name, settings in manifest.recommended.items():
        head = HEADS.get(name)
        try:
            if head is not None and head.offered(manifest):
                segmenter.settle(head)
        except MdrtError as error:
            raise BundleError(
                f"{segmenter.bundle.path} recommends what head {name} does not take "
                f"({dict(settings)}): {error}; export it again"
            ) from error
