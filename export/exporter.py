"""Export a model to a bundle: load → prove against → trace → write, part by part.

One component is in memory at a time. For each: plain PyTorch answers the
proof's examples, the graph is traced and written, the component is let go, and
ONNX Runtime answers the same examples. Whatever is peculiar to a family of
models is in `backbones/`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from .. import __version__
from ..kernels.cpu import operator_library
from ..runtime.bundle import contract
from ..runtime.bundle.loading import record_file, write_manifest
from ..runtime.errors import ExportError
from ..runtime.sessions.onnx_runtime import onnx_runtime
from . import proof
from .backbones import Backbone, open_backbone
from .backbones.base import TextPart
from .cutting import write_cuts
from .graphs import Graph, GraphFile, text_graph, vae_graph, write_graph
from .options import ExportOptions
from .overflow import Peaks, watched
from .precision import lowered
from .refusal import refusing
from .staging import staged
from .tokens import write_tokenizer
from .twin import write_twins

_NOISE_SEED: Final = 0
_VERSIONED: Final = ("torch", "diffusers", "transformers", "onnx")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was proved: one row per graph output.

    `weight_bytes`: of the model's networks in float32, a decoder included.
    """

    path: Path
    manifest: contract.Manifest
    proof: tuple[proof.Row, ...]
    weight_bytes: int


class ProofError(ExportError):
    """A graph's values differ from PyTorch's; `rows` holds every row measured so far."""

    def __init__(self, rows: Sequence[proof.Row]) -> None:
        failed = [row for row in rows if not row.passed]
        worst = max(failed, key=lambda row: row.error)
        super().__init__(
            f"{len(failed)} of {len(rows)} tensors differ from PyTorch, most {worst.tensor} of "
            f"{worst.graph}: error {worst.error:.2e}, expected at most {worst.tolerance:.0e}; "
            "no bundle was written; try precision fp32",
            precision="fp32",
        )
        self.rows = tuple(rows)


def export(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ExportReport:
    """Export `model` to a bundle at `output`.

    Args:
        model: a diffusers pipeline directory or a hub id.
        output: the bundle's directory.
        options: what to export and how; the paper's choices by default.
        progress: called with a few words as each stage begins.

    Raises:
        ExportError: the model is of another kind, a stride does not exist,
            `output` is taken, or the proof failed (`ProofError`). No bundle is
            left behind.
        ProviderError: ONNX Runtime, which the proof needs, is not installed.
    """
    options = options or ExportOptions()
    onnx_runtime()  # if it is missing, that is said now, not after minutes
    with staged(Path(output), options.overwrite) as directory:
        progress = progress or _silent
        progress("looking at the model")
        job = _ExportJob(open_backbone(model, options), options, directory, progress)
        manifest = job.run()
        return ExportReport(Path(output), manifest, tuple(job.rows), job.weight_bytes)


class _ExportJob:
    """One export under way: what its stages share."""

    def __init__(
        self, backbone: Backbone, options: ExportOptions, directory: Path, progress: Progress
    ) -> None:
        self.backbone = backbone
        self.options = options
        self.directory = directory
        self.progress = progress
        self.rows: list[proof.Row] = []
        self.weight_bytes = 0
        self.notes: dict[str, str] = {}
        image = backbone.image
        self.cases = proof.cases(image.size_multiple, image.native_size)

    def run(self) -> contract.Manifest:
        """Write every file of the bundle, the manifest last."""
        manifest = self._manifest()  # of no files yet: what it refuses costs nothing
        _check_recommended(manifest)
        for text in self.backbone.texts:
            self._text(text)
        if manifest.latent is not None:
            self._vae(manifest)
        if manifest.noise is not None:
            self._noise(manifest)
        self._network(manifest)
        self.progress("hashing files")
        manifest = self._manifest()
        write_manifest(self.directory, manifest)
        return manifest

    def _text(self, text: TextPart) -> None:
        """Write and prove a tokenizer and its text encoder."""
        spec = text.spec
        self.progress(f"proving {spec.tokenizer}")
        names = [name for synonymous in self.options.classes for name in synonymous]
        path = self.directory / spec.tokenizer
        self.rows.append(
            write_tokenizer(text.tokenizer(), path, spec.tokens, text.embeddings, names)
        )
        self.progress(f"loading the text encoder of {spec.graph}")
        network = self._counted(text.load())
        self.progress(f"{spec.graph}: running PyTorch")
        with (
            refusing("the text encoder cannot be run"),
            watched(network, self.options.precision) as peaks,
        ):
            examples = proof.text_examples(network, spec, text.layer, self.cases, text.any_length)
        with lowered(network, self._fitting(spec.graph, peaks), self.options.weights):
            graph = text_graph(network, spec, text.layer, text.any_length)
            self._write(graph)
        del network, graph
        self._prove(spec.graph, examples)

    def _vae(self, manifest: contract.Manifest) -> None:
        """Write the VAE encoder."""
        self.progress("loading the VAE")
        vae = self._counted(self.backbone.vae())
        self.progress(f"{contract.VAE_ENCODER}: running PyTorch")
        with (
            refusing("the VAE cannot be run"),
            watched(vae, self.options.precision) as peaks,
        ):
            examples = proof.vae_examples(vae, self.cases)
        vae.decoder = None  # half the weights, and nothing asks for an image
        precision = self._fitting(contract.VAE_ENCODER, peaks)
        with lowered(vae, precision, self.options.weights) as dtype:
            graph = vae_graph(vae, dtype, manifest.factor)
            self._write(graph)
        del vae, graph
        self._prove(contract.VAE_ENCODER, examples)
        derived = proof.for_derived(examples, manifest.image.native_size)
        self._twins(contract.VAE_ENCODER, manifest, derived)

    def _noise(self, manifest: contract.Manifest) -> None:
        """Write ε."""
        cells = manifest.image.native_size // manifest.factor
        channels = 3 if manifest.latent is None else manifest.latent.channels
        random = np.random.default_rng(_NOISE_SEED)
        noise = random.standard_normal((channels, cells, cells), dtype=np.float32)
        np.save(self.directory / contract.NOISE, noise)

    def _network(self, manifest: contract.Manifest) -> None:
        """Write the network up to the last selected tensor, its cuts, and what its layers make of
        words."""
        self.progress("loading the network")
        network = self._counted(self.backbone.network())
        self.progress(f"{manifest.network}: running PyTorch")
        with (
            refusing("the network cannot be run"),
            watched(network, self.options.precision) as peaks,
        ):
            examples = self.backbone.examples(network, self.cases)
        if overflow := peaks.beyond():
            raise ExportError(
                f"{manifest.network} cannot compute in float16: {overflow}; bf16 has float32's "
                "range, for GPUs, and fp32 runs everywhere",
                precision="bf16",
            )
        with (
            lowered(network, self.options.precision, self.options.weights) as dtype,
            self.backbone.graphs(network, dtype) as graphs,
        ):
            for make in graphs:
                self._write(make())
        del network, graphs, make
        whole = examples.pop(manifest.network)
        for filename in list(examples):
            self._prove(filename, examples.pop(filename))  # gigabytes, of a large network
        self._prove(manifest.network, whole)
        whole = list(proof.for_derived(whole, manifest.image.native_size))
        self._twins(manifest.network, manifest, whole)
        for cut, path in write_cuts(self.directory, self.backbone.selection):
            self._prove(path.name, [example.of(cut.outputs) for example in whole])

    def _fitting(self, filename: str, peaks: Peaks) -> str:
        """The precision of a graph before the network's, small beside it: float32 where a layer
        would overflow."""
        if not (overflow := peaks.beyond()):
            return self.options.precision
        self.notes[filename] = f"kept in float32: {overflow}"
        return "fp32"

    def _counted(self, network: Any) -> Any:
        self.weight_bytes += 4 * sum(p.numel() for p in network.parameters())
        return network

    def _write(self, graph: Graph | GraphFile) -> None:
        path = self.directory / graph.filename
        if isinstance(graph, GraphFile):
            self.progress(f"writing {graph.filename}")
            graph.write(path)
            return
        self.progress(f"tracing {graph.filename}")
        write_graph(graph, path, self.options.opset_version)

    def _prove(self, filename: str, examples: Sequence[proof.Example]) -> None:
        """Run the written graph; the model it came from must have been let go by now."""
        gc.collect()
        self.progress(f"proving {filename}")
        note = self.notes.get(filename, "")
        stored = "fp16 weights" if self.options.weights == "fp16" else self.options.precision
        tolerance = proof.TOLERANCE["fp32" if note else stored]
        # ONNX Runtime crashes on half-precision arithmetic whose constants it may not fold
        lean = self.options.precision == "fp32"
        self.rows += proof.prove(self.directory / filename, examples, tolerance, note, lean=lean)
        if not all(row.passed for row in self.rows):
            raise ProofError(self.rows)

    def _twins(
        self, filename: str, manifest: contract.Manifest, examples: Sequence[proof.Example]
    ) -> None:
        """Write and prove the graph's twins for CPUs, where they are worth it."""
        if operator_library() is None:
            return  # what cannot be proved is not written
        native = manifest.image.native_size
        for twin in write_twins(
            self.directory / filename, manifest.inputs(filename, 1, native, native)
        ):
            self._prove(twin.name, examples)

    def _manifest(self) -> contract.Manifest:
        """Of the files that are there."""
        backbone, options = self.backbone, self.options
        files = sorted(path for path in self.directory.rglob("*") if path.is_file())
        created_by = {"mdrt": __version__, "onnxruntime": onnx_runtime().__version__}
        created_by |= {name: version(name) for name in _VERSIONED}
        outputs = backbone.selection
        return contract.Manifest(
            model_id=backbone.model_id,
            created_by=created_by | {"opset": str(options.opset_version)},
            precision=options.precision,
            image=backbone.image,
            latent=backbone.latent,
            noise=backbone.noise,
            texts=tuple(text.spec for text in backbone.texts),
            network=outputs.network,
            features=outputs.features,
            attention=outputs.attention,
            self_attention=outputs.self_attention,
            encoder=outputs.encoder,
            aligned=outputs.aligned,
            recommended=options.recommended or backbone.recommended,
            classes=tuple(names[0] for names in options.classes),
            synonyms=tuple(name for names in options.classes for name in names[1:]),
            files={
                path.relative_to(self.directory).as_posix(): record_file(path) for path in files
            },
        )


def _check_recommended(manifest: contract.Manifest) -> None:
    """See that what is recommended is there.

    Raises:
        ExportError: it is not.
    """
    for head, settings in manifest.recommended.items():
        timestep = settings.get("timestep", 0)
        if isinstance(timestep, int) and timestep >= manifest.levels:
            raise ExportError(
                f"recommended for {head}: timestep is {timestep}, expected 0 to "
                f"{manifest.levels - 1}"
            )
        for name, outputs in (
            ("feature_strides", manifest.features),
            ("attention_strides", manifest.attention),
        ):
            given, strides = settings.get(name), {output.stride: None for output in outputs}
            if isinstance(given, tuple) and (missing := set(given) - set(strides)):
                raise ExportError(
                    f"recommended for {head}: {name} holds {missing.pop()}, and only "
                    f"{', '.join(map(str, strides))} are exported"
                )


def _silent(_stage: str) -> None:
    """Report nothing."""
