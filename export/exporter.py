"""Export a diffusers pipeline to a bundle: load → prove against → trace → write, part by part.

One component is in memory at a time. For each: plain PyTorch answers the
proof's examples, the graph is traced and written, the component is let go, and
ONNX Runtime answers the same examples.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import diffusers
import numpy as np
import torch

from .. import __version__
from ..kernels.cpu import operator_library
from ..runtime.bundle import contract
from ..runtime.bundle.loading import record_file, write_manifest
from ..runtime.errors import ExportError
from ..runtime.sessions.onnx_runtime import onnx_runtime
from . import proof
from .capture import capture
from .components import Pipeline, open_pipeline
from .cutting import write_cuts
from .graphs import (
    Graph,
    keys_graph,
    posterior_mean,
    text_graph,
    unet_graph,
    vae_graph,
    write_graph,
)
from .options import ExportOptions
from .precision import lowered
from .probe import Selection, Structure, probe, select
from .refusal import refusing
from .staging import staged
from .tokens import tokenizer_spec, write_tokenizer
from .twin import write_twins

_NOISE_SEED: Final = 0
_DEFAULT_CELLS: Final = 64  # diffusers' own default of an unset unet.config.sample_size
_VAE_PROBE: Final = 512  # pixels; costs nothing on the meta device
_VERSIONED: Final = ("torch", "diffusers", "transformers", "onnx")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was proved: one row per graph output.

    `weight_bytes`: of the pipeline's three networks in float32, decoder included.
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
        job = _ExportJob(open_pipeline(model, options.vae), options, directory, progress or _silent)
        manifest = job.run()
        return ExportReport(Path(output), manifest, tuple(job.rows), job.weight_bytes)


class _ExportJob:
    """One export under way: what its stages share."""

    def __init__(
        self, pipeline: Pipeline, options: ExportOptions, directory: Path, progress: Progress
    ) -> None:
        self.pipeline = pipeline
        self.options = options
        self.directory = directory
        self.progress = progress
        self.rows: list[proof.Row] = []
        self.weight_bytes = 0
        self.unet_config = pipeline.unet_config()
        progress("walking the UNet")
        self.structure: Structure = probe(self.unet_config)
        self.latent = _latent(pipeline)
        self.selection: Selection = select(
            self.structure,
            self.latent.factor,
            options.feature_strides,
            options.attention_strides,
            options.self_attention_strides,
        )
        self.text_config = pipeline.text_config()
        self.alphas_cumprod, self.prediction_type = pipeline.schedule()
        self.native_cells = _native_cells(self.unet_config, self.structure.down_factor)
        self.cases = proof.cases(self.size_multiple, self.native_cells * self.latent.factor)

    @property
    def size_multiple(self) -> int:
        return self.latent.factor * self.structure.down_factor

    def run(self) -> contract.Manifest:
        """Write every file of the bundle, the manifest last."""
        self._check()
        tokenizer = self._tokenizer()
        self._vae()
        self._text(tokenizer)
        self._unet(tokenizer.max_length)
        self.progress("hashing files")
        manifest = self._manifest(tokenizer)
        write_manifest(self.directory, manifest)
        return manifest

    def _check(self) -> None:
        """What must hold before hours are spent."""
        if self.structure.channels != self.latent.channels:
            raise ExportError(
                f"the UNet takes {self.structure.channels} channels, the VAE gives "
                f"{self.latent.channels}; expected the same (inpainting and depth models cannot be "
                "exported)"
            )
        native = self.native_cells * self.latent.factor
        if native > contract.MOST_PIXELS:
            raise ExportError(
                f"the UNet's sample_size stands for pictures of {native} pixels a side, expected "
                f"at most {contract.MOST_PIXELS}; check unet/config.json"
            )
        if self.text_config.hidden_size != self.structure.width:
            raise ExportError(
                f"the text encoder is {self.text_config.hidden_size} wide, the UNet's "
                f"cross-attention takes {self.structure.width}; expected the same"
            )
        steps = len(self.alphas_cumprod)
        for head, settings in self.options.recommended.items():
            if (timestep := settings.get("timestep", 0)) >= steps:
                raise ExportError(
                    f"recommended for {head}: timestep is {timestep}, expected 0 to {steps - 1}"
                )
            for name, strides in (
                ("feature_strides", self.options.feature_strides),
                ("attention_strides", self.options.attention_strides),
            ):
                if missing := set(settings.get(name) or ()) - set(strides):
                    raise ExportError(
                        f"recommended for {head}: {name} holds {missing.pop()}, and only "
                        f"{', '.join(map(str, strides))} are exported"
                    )

    def _tokenizer(self) -> contract.TokenizerSpec:
        """Write and prove the tokenizer; returns its spec."""
        self.progress("proving the tokenizer")
        tokenizer, text = self.pipeline.tokenizer(), self.text_config
        spec = tokenizer_spec(tokenizer, text.max_position_embeddings)
        names = [name for synonymous in self.options.classes for name in synonymous]
        path = self.directory / contract.TOKENIZER
        self.rows.append(write_tokenizer(tokenizer, path, spec, text.vocab_size, names))
        return spec

    def _vae(self) -> None:
        """Write the VAE encoder and the noise."""
        self.progress("loading the VAE")
        vae = self._counted(self.pipeline.vae())
        self.progress("VAE: running PyTorch")
        with refusing("the VAE cannot be run"):
            examples = proof.vae_examples(vae, self.cases)
        vae.decoder = None  # half the weights, and nothing asks for an image
        with lowered(vae, self.options.precision) as dtype:
            graph = vae_graph(vae, dtype, self.latent.factor)
            self._write(graph)
        del vae, graph
        pixels = self.native_cells * self.latent.factor
        self._prove(contract.VAE_ENCODER, examples)
        self._twins(contract.VAE_ENCODER, {contract.IMAGE: (1, 3, pixels, pixels)}, examples)
        noise = np.random.default_rng(_NOISE_SEED).standard_normal(
            (self.latent.channels, self.native_cells, self.native_cells), dtype=np.float32
        )
        np.save(self.directory / contract.NOISE, noise)

    def _text(self, spec: contract.TokenizerSpec) -> None:
        """Write the text encoder."""
        self.progress("loading the text encoder")
        text = self._counted(self.pipeline.text_encoder())
        self.progress("text encoder: running PyTorch")
        with refusing("the text encoder cannot be run"):
            examples = proof.text_examples(text, spec, self.cases)
        with lowered(text, self.options.precision):
            graph = text_graph(text, spec.max_length)
            self._write(graph)
        del text, graph
        self._prove(contract.TEXT_ENCODER, examples)

    def _unet(self, max_length: int) -> None:
        """Write the UNet up to the last selected tensor, its cuts, and the graph of its keys."""
        self.progress("loading the UNet")
        unet = self._counted(self.pipeline.unet())
        self.progress("UNet: running PyTorch")
        with refusing("the UNet cannot be run"):
            examples = proof.unet_examples(
                unet,
                self.selection,
                len(self.alphas_cumprod),
                max_length,
                self.cases,
                self.latent.factor,
            )
            of_keys = proof.keys_examples(unet, self.selection, max_length, self.cases)
        with (
            lowered(unet, self.options.precision) as dtype,
            capture(unet, self.selection) as captured,
        ):
            graph = unet_graph(
                unet,
                captured,
                dtype,
                max_length,
                self.structure.width,
                self.structure.down_factor,
                self.selection,
            )
            self._write(graph)
            width = self.structure.width
            graph = keys_graph(unet, dtype, max_length, width, self.selection)
            self._write(graph)
        del unet, captured, graph
        self._prove(contract.UNET, examples)
        self._prove(contract.KEYS, of_keys)
        sizes = {
            contract.SAMPLE: (1, self.latent.channels, self.native_cells, self.native_cells),
            contract.TIMESTEP: (1,),
            contract.ENCODER_HIDDEN_STATES: (1, max_length, self.structure.width),
        }
        self._twins(contract.UNET, sizes, examples)
        for cut, path in write_cuts(self.directory, self.selection):
            self._prove(path.name, [example.of(cut.outputs) for example in examples])

    def _counted(self, network: Any) -> Any:
        self.weight_bytes += sum(p.numel() * p.element_size() for p in network.parameters())
        return network

    def _write(self, graph: Graph) -> None:
        self.progress(f"tracing {graph.filename}")
        float16_weights = self.options.weights == "fp16"
        write_graph(
            graph, self.directory / graph.filename, self.options.opset_version, float16_weights
        )

    def _prove(self, filename: str, examples: Sequence[proof.Example]) -> None:
        """Run the written graph; the model it came from must have been let go by now."""
        gc.collect()
        self.progress(f"proving {filename}")
        stored = "fp16 weights" if self.options.weights == "fp16" else self.options.precision
        tolerance = proof.TOLERANCE[stored]
        self.rows += proof.prove(self.directory / filename, examples, tolerance)
        if not all(row.passed for row in self.rows):
            raise ProofError(self.rows)

    def _twins(
        self, filename: str, sizes: Mapping[str, Sequence[int]], examples: Sequence[proof.Example]
    ) -> None:
        """Write and prove the graph's twins for CPUs, where they are worth it."""
        if operator_library() is None:
            return  # what cannot be proved is not written
        for twin in write_twins(self.directory / filename, sizes):
            self._prove(twin.name, examples)

    def _manifest(self, tokenizer: contract.TokenizerSpec) -> contract.Manifest:
        files = sorted(path for path in self.directory.rglob("*") if path.is_file())
        created_by = {"mdrt": __version__, "onnxruntime": onnx_runtime().__version__}
        created_by |= {name: version(name) for name in _VERSIONED}
        return contract.Manifest(
            model_id=self.pipeline.model_id,
            created_by=created_by | {"opset": str(self.options.opset_version)},
            precision=self.options.precision,
            prediction_type=self.prediction_type,
            alphas_cumprod=self.alphas_cumprod,
            scaling_factor=self.latent.scaling,
            shift_factor=self.latent.shift,
            vae_factor=self.latent.factor,
            latent_channels=self.latent.channels,
            size_multiple=self.size_multiple,
            native_size=self.native_cells * self.latent.factor,
            tokenizer=tokenizer,
            text=contract.TextSpec(self.structure.width),
            features=self.selection.features,
            attention=self.selection.attention,
            self_attention=self.selection.self_attention,
            encoder=self.selection.encoder,
            recommended=self.options.recommended,
            classes=tuple(names[0] for names in self.options.classes),
            synonyms=tuple(name for names in self.options.classes for name in names[1:]),
            files={
                path.relative_to(self.directory).as_posix(): record_file(path) for path in files
            },
        )


@dataclass(frozen=True)
class _Latent:
    """What a VAE encodes to: channels, pixels per cell, and how its values are scaled."""

    channels: int
    factor: int
    scaling: float
    shift: float


def _latent(pipeline: Pipeline) -> _Latent:
    """What the VAE's configuration says of its latents, and a run on the meta device."""
    config = pipeline.vae_config()
    with refusing("the VAE's configuration cannot be built"), torch.device("meta"), torch.no_grad():
        vae = getattr(diffusers, pipeline.vae_class).from_config(config)
        latent = posterior_mean(vae.eval(), torch.empty(1, 3, _VAE_PROBE, _VAE_PROBE))
        scaling, shift = (
            float(vae.config.scaling_factor),
            float(vae.config.get("shift_factor") or 0),
        )
    if not (0 < scaling < math.inf and math.isfinite(shift)):
        raise ExportError(
            f"the VAE's scaling_factor is {scaling} and its shift_factor {shift}; "
            "expected a positive number, and a number or null"
        )
    return _Latent(int(latent.shape[1]), _VAE_PROBE // int(latent.shape[2]), scaling, shift)


def _native_cells(config: dict[str, Any], multiple: int) -> int:
    """The latent side the UNet was trained on, as a multiple of what it can take."""
    size = config.get("sample_size") or _DEFAULT_CELLS
    sides = size if isinstance(size, list) else [size]
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise ExportError(
            f"the UNet's sample_size is {size!r}, expected latent cells a side, as 64"
        )
    cells = max(sides)
    return max(multiple, cells - cells % multiple)


def _silent(_stage: str) -> None:
    """Report nothing."""
