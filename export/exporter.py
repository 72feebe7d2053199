"""Export a diffusers pipeline to a bundle: load → prove against → trace → write, part by part.

One component is in memory at a time. For each: plain PyTorch answers the
proof's examples, the graph is traced and written, the component is let go, and
ONNX Runtime answers the same examples.
"""

from __future__ import annotations

import gc
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
from ..runtime import contract
from ..runtime.bundle import record_file, write_manifest
from ..runtime.errors import ExportError
from . import proof
from .capture import capture
from .components import Pipeline, open_pipeline
from .graphs import Graph, posterior_mean, text_graph, unet_graph, vae_graph, write_graph
from .options import ExportOptions
from .precision import lowered
from .probe import Selection, Structure, context_width, probe, select
from .quiet import quiet
from .staging import staged
from .tokens import tokenizer_spec, write_tokenizer
from .twin import write_twin

_NOISE_SEED: Final = 0
_DEFAULT_CELLS: Final = 64  # diffusers' own default of an unset unet.config.sample_size
_VAE_PROBE: Final = 512  # pixels; costs nothing on the meta device
_VERSIONED: Final = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")

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
            "no bundle was written; try --precision fp32"
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
    """
    options = options or ExportOptions()
    with staged(Path(output), options.overwrite) as directory:
        job = _Job(open_pipeline(model, options.vae), options, directory, progress or _silent)
        manifest = job.run()
        return ExportReport(Path(output), manifest, tuple(job.rows), job.weight_bytes)


class _Job:
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
        self.latent_channels, self.vae_factor = _vae_shape(pipeline)
        self.selection: Selection = select(
            self.structure,
            self.vae_factor,
            options.feature_strides,
            options.attention_strides,
            options.self_attention_strides,
        )
        self.alphas_cumprod, self.prediction_type = pipeline.schedule()
        self.native_cells = _native_cells(self.unet_config, self.structure.down_factor)
        self.cases = proof.cases(self.size_multiple, self.native_cells * self.vae_factor)

    @property
    def size_multiple(self) -> int:
        return self.vae_factor * self.structure.down_factor

    def run(self) -> contract.Manifest:
        """Write every file of the bundle, the manifest last."""
        self._check()
        scaling, shift = self._vae()
        tokenizer, hidden = self._text()
        self._unet(tokenizer.max_length)
        self.progress("hashing files")
        manifest = self._manifest(scaling, shift, tokenizer, hidden)
        write_manifest(self.directory, manifest)
        return manifest

    def _check(self) -> None:
        """What must hold before hours are spent."""
        channels = self.unet_config.get("in_channels", 4)
        if channels != self.latent_channels:
            raise ExportError(
                f"the UNet takes {channels} channels, the VAE gives {self.latent_channels}; "
                "expected the same (inpainting and depth models cannot be exported)"
            )
        steps = len(self.alphas_cumprod)
        recommended = self.options.recommended
        for option, timestep in (
            ("--timestep", recommended.timestep),
            ("--segments-timestep", recommended.segments_timestep),
        ):
            if not 0 <= timestep < steps:
                raise ExportError(f"{option} is {timestep}, expected 0 to {steps - 1}")

    def _vae(self) -> tuple[float, float]:
        """Write the VAE encoder and the noise; returns scaling and shift factors."""
        self.progress("loading the VAE")
        vae = self._counted(self.pipeline.vae())
        shift = vae.config.get("shift_factor")
        scaling = float(vae.config.scaling_factor)
        self.progress("VAE: running PyTorch")
        examples = proof.vae_examples(vae, self.cases)
        vae.decoder = None  # half the weights, and nothing asks for an image
        with lowered(vae, self.options.precision) as dtype:
            graph = vae_graph(vae, dtype, self.vae_factor)
            self._write(graph)
        del vae, graph
        pixels = self.native_cells * self.vae_factor
        self._prove(contract.VAE_ENCODER, examples)
        self._twin(contract.VAE_ENCODER, {contract.IMAGE: (1, 3, pixels, pixels)}, examples)
        noise = np.random.default_rng(_NOISE_SEED).standard_normal(
            (self.latent_channels, self.native_cells, self.native_cells), dtype=np.float32
        )
        np.save(self.directory / contract.NOISE, noise)
        return scaling, float(shift or 0.0)

    def _text(self) -> tuple[contract.TokenizerSpec, int]:
        """Write the text encoder and the tokenizer; returns its spec and the hidden width."""
        self.progress("loading the text encoder")
        text = self._counted(self.pipeline.text_encoder())
        tokenizer = self.pipeline.tokenizer()
        spec = tokenizer_spec(tokenizer, text.config.max_position_embeddings)
        write_tokenizer(tokenizer, self.directory / contract.TOKENIZER)
        hidden = int(text.config.hidden_size)
        if hidden != context_width(self.unet_config):
            raise ExportError(
                f"the text encoder is {hidden} wide, the UNet's cross-attention takes "
                f"{context_width(self.unet_config)}; expected the same"
            )
        self.progress("text encoder: running PyTorch")
        examples = proof.text_examples(text, spec, self.cases)
        with lowered(text, self.options.precision):
            graph = text_graph(text, spec.max_length)
            self._write(graph)
        del text, graph
        self._prove(contract.TEXT_ENCODER, examples)
        return spec, hidden

    def _unet(self, max_length: int) -> None:
        """Write the UNet, cut after the last selected tensor."""
        self.progress("loading the UNet")
        unet = self._counted(self.pipeline.unet())
        self.progress("UNet: running PyTorch")
        examples = proof.unet_examples(
            unet,
            self.selection,
            len(self.alphas_cumprod),
            max_length,
            self.cases,
            self.vae_factor,
        )
        with (
            lowered(unet, self.options.precision) as dtype,
            capture(unet, self.selection) as captured,
        ):
            graph = unet_graph(
                unet,
                captured,
                dtype,
                max_length,
                context_width(self.unet_config),
                self.structure.down_factor,
                self.selection,
            )
            self._write(graph)
        del unet, captured, graph
        self._prove(contract.UNET, examples)
        sizes = {
            contract.SAMPLE: (1, self.latent_channels, self.native_cells, self.native_cells),
            contract.TIMESTEP: (1,),
            contract.ENCODER_HIDDEN_STATES: (1, max_length, context_width(self.unet_config)),
        }
        self._twin(contract.UNET, sizes, examples)

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

    def _twin(
        self, filename: str, sizes: Mapping[str, Sequence[int]], examples: Sequence[proof.Example]
    ) -> None:
        """Write and prove the graph's twin for CPUs, where one is worth it."""
        if operator_library() is None:
            return  # what cannot be proved is not written
        twin = write_twin(self.directory / filename, sizes)
        if twin is not None:
            self._prove(twin.name, examples)

    def _manifest(
        self, scaling: float, shift: float, tokenizer: contract.TokenizerSpec, hidden: int
    ) -> contract.Manifest:
        files = sorted(path for path in self.directory.rglob("*") if path.is_file())
        created_by = {"mdrt": __version__} | {name: version(name) for name in _VERSIONED}
        return contract.Manifest(
            model_id=self.pipeline.model_id,
            created_by=created_by | {"opset": str(self.options.opset_version)},
            precision=self.options.precision,
            prediction_type=self.prediction_type,
            alphas_cumprod=self.alphas_cumprod,
            timestep=self.options.recommended.timestep,
            scaling_factor=scaling,
            shift_factor=shift,
            vae_factor=self.vae_factor,
            latent_channels=self.latent_channels,
            size_multiple=self.size_multiple,
            native_size=self.native_cells * self.vae_factor,
            tokenizer=tokenizer,
            text=contract.TextSpec(hidden),
            features=self.selection.features,
            attention=self.selection.attention,
            self_attention=self.selection.self_attention,
            recommended=self.options.recommended,
            classes=tuple(names[0] for names in self.options.classes),
            synonyms=tuple(name for names in self.options.classes for name in names[1:]),
            files={
                path.relative_to(self.directory).as_posix(): record_file(path) for path in files
            },
        )


def _vae_shape(pipeline: Pipeline) -> tuple[int, int]:
    """The VAE's latent channels and pixels per latent cell, from a run on the meta device."""
    try:
        with quiet(), torch.device("meta"), torch.no_grad():
            vae = getattr(diffusers, pipeline.vae_class).from_config(pipeline.vae_config())
            latent = posterior_mean(vae.eval(), torch.empty(1, 3, _VAE_PROBE, _VAE_PROBE))
    except (TypeError, ValueError) as error:
        raise ExportError(f"the VAE's configuration cannot be built: {error}") from error
    return int(latent.shape[1]), _VAE_PROBE // int(latent.shape[2])


def _native_cells(config: dict[str, Any], multiple: int) -> int:
    """The latent side the UNet was trained on, as a multiple of what it can take."""
    size = config.get("sample_size") or _DEFAULT_CELLS
    cells = int(size if isinstance(size, int) else max(size))
    return max(multiple, cells - cells % multiple)


def _silent(_stage: str) -> None:
    """Report nothing."""
