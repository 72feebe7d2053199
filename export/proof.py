"""Proof that a graph is the model: ONNX Runtime beside plain PyTorch.

The PyTorch side runs the model as it was loaded, in float32, with diffusers'
own attention processors; it reads queries, keys and resnet inputs by hooks of
its own and knows nothing of the wrappers that were traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ..runtime.bundle import contract
from ..runtime.bundle.contract import AttentionOutput
from ..runtime.errors import BundleError, ExportError
from ..runtime.sessions.onnx_runtime import onnx_runtime
from ..runtime.sessions.ort import OrtSession
from .graphs import posterior_mean
from .probe import Selection, context_width
from .refusal import refusing
from .weights import widen_bfloat16

Arrays = dict[str, npt.NDArray[Any]]

# The largest allowed max|a − b| / max|b| against float32 PyTorch. Seen on tiny SD-shaped models:
# 2e-6, 1.5e-3, 1.2e-2, and 2e-3 where weights alone are rounded; depth multiplies it.
TOLERANCE: Final = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "fp16 weights": 1e-2}
_NATIVE_LIMIT: Final = 512  # pixels a side; a larger native size is left out of the proof


@dataclass(frozen=True)
class Case:
    """One proof run: image height and width in pixels, batch size."""

    height: int
    width: int
    batch: int


@dataclass(frozen=True)
class Row:
    """One output tensor over all cases: `error` is the largest max|a − b| / max|b|."""

    graph: str
    tensor: str
    shapes: tuple[tuple[int, ...], ...]
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass(frozen=True)
class Example:
    """A graph's inputs, and what plain PyTorch answers to them."""

    inputs: Arrays
    expected: Arrays

    def of(self, outputs: Sequence[str]) -> Example:
        """The same of fewer outputs, for a cut."""
        return Example(self.inputs, {name: self.expected[name] for name in outputs})


def cases(size_multiple: int, native_size: int) -> tuple[Case, ...]:
    """Two sizes × two batch sizes, and the native size once where it is small enough."""
    m = size_multiple
    chosen = [Case(h, w, batch) for h, w in ((m, 2 * m), (3 * m, 2 * m)) for batch in (1, 2)]
    if native_size <= _NATIVE_LIMIT and native_size % m == 0:
        chosen.append(Case(native_size, native_size, 1))
    return tuple(chosen)


def vae_examples(vae: Any, chosen: Sequence[Case]) -> list[Example]:
    """Uniform random images through the plain VAE."""
    random = torch.Generator().manual_seed(0)
    examples = []
    for case in chosen:
        image = torch.rand(case.batch, 3, case.height, case.width, generator=random) * 2 - 1
        with torch.no_grad():
            latent = posterior_mean(vae, image)
        examples.append(_example({contract.IMAGE: image}, {contract.LATENT: latent}))
    return examples


def text_examples(
    text_encoder: Any, spec: contract.TokenizerSpec, chosen: Sequence[Case]
) -> list[Example]:
    """Prompts of random tokens and length, laid out as the contract says."""
    random = torch.Generator().manual_seed(0)
    vocabulary = text_encoder.config.vocab_size
    examples = []
    for batch in sorted({case.batch for case in chosen}):
        ids = torch.randint(vocabulary, (batch, spec.max_length), generator=random)
        ends = torch.randint(1, spec.max_length, (batch, 1), generator=random)
        positions = torch.arange(spec.max_length)
        ids = ids.masked_fill(ids == spec.eos, spec.bos)  # the first eos ends a prompt
        ids = ids.masked_fill(positions == 0, spec.bos)
        ids = ids.masked_fill(positions == ends, spec.eos).masked_fill(positions > ends, spec.pad)
        with torch.no_grad():
            states = text_encoder(ids).last_hidden_state
        outputs = {contract.ENCODER_HIDDEN_STATES: states}
        examples.append(_example({contract.INPUT_IDS: ids}, outputs))
    return examples


def unet_examples(
    unet: Any,
    selection: Selection,
    steps: int,
    max_length: int,
    chosen: Sequence[Case],
    factor: int,
) -> list[Example]:
    """Random latents, timesteps and embeddings through the whole plain UNet.

    `steps` is the number of training timesteps, `factor` the pixels per latent cell.
    """
    random = torch.Generator().manual_seed(0)
    channels, width = unet.config.in_channels, context_width(unet.config)
    examples = []
    for case in chosen:
        size = (case.batch, channels, case.height // factor, case.width // factor)
        sample = torch.randn(size, generator=random)
        timestep = torch.randint(steps, (case.batch,), generator=random)
        states = torch.randn(case.batch, max_length, width, generator=random)
        with torch.no_grad(), _observed(unet, selection) as outputs:
            unet(sample, timestep, states)
        for output in selection.encoder:
            grid = (case.height // output.stride, case.width // output.stride)
            outputs[output.name] = _as_map(outputs[output.name], grid)
        inputs = {
            contract.SAMPLE: sample,
            contract.TIMESTEP: timestep,
            contract.ENCODER_HIDDEN_STATES: states,
        }
        examples.append(_example(inputs, {name: outputs[name] for name in selection.names}))
    return examples


def keys_examples(
    unet: Any, selection: Selection, max_length: int, chosen: Sequence[Case]
) -> list[Example]:
    """Random embeddings through the plain layers' own norms and projections; of values, each head's
    alone, the others' zeros, less what the output projection makes of nothing."""
    random = torch.Generator().manual_seed(0)
    width = context_width(unet.config)
    examples = []
    for batch in sorted({case.batch for case in chosen}):
        states = torch.randn(batch, max_length, width, generator=random)
        outputs, values = {}, {}
        with torch.no_grad():
            for output in selection.attention:
                layer = unet.get_submodule(output.layer)
                normed = layer.norm_encoder_hidden_states(states) if layer.norm_cross else states
                keys = layer.to_k(normed).unflatten(2, (output.heads, output.channels))
                keys = keys.permute(0, 2, 1, 3)
                outputs[output.keys] = keys if layer.norm_k is None else layer.norm_k(keys)
                values[output.values] = _by_itself(layer, layer.to_v(normed), output.heads)
        examples.append(_example({contract.ENCODER_HIDDEN_STATES: states}, outputs | values))
    return examples


def _by_itself(layer: Any, values: torch.Tensor, heads: int) -> torch.Tensor:
    """What each head gives, (batch, heads, tokens, D), of all values (batch, tokens, heads · d)."""
    project, nothing = layer.to_out[0], torch.zeros_like(values)
    own = torch.arange(values.shape[2]) // (values.shape[2] // heads)
    alone = [project(values.where(own == head, nothing)) for head in range(heads)]
    return torch.stack(alone, dim=1) - project(nothing)[:, None]


def prove(path: Path, examples: Sequence[Example], tolerance: float) -> list[Row]:
    """Run a written graph on `examples`: names, then shapes, then values.

    Returns:
        A row per output, failed ones included.

    Raises:
        ExportError: names or shapes differ, or the graph is none that ONNX Runtime can run.
        MdrtError: it cannot load it, or an output is not finite.
    """
    with refusing(f"ONNX Runtime cannot run {path.name}"), _opened(path) as (session, note):
        names, expected = list(session.outputs), list(examples[0].expected)
        if names != expected:
            raise ExportError(f"{path.name} returns {names}, expected {expected}")
        errors = dict.fromkeys(names, 0.0)
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}
        for example in examples:
            for name, found in session.infer(example.inputs).items():
                wanted = example.expected[name]
                if found.shape != wanted.shape or found.dtype != np.float32:
                    raise ExportError(
                        f"{path.name} returns {name} as {found.dtype} {found.shape}, "
                        f"expected float32 {wanted.shape}"
                    )
                errors[name] = float(np.maximum(errors[name], relative_error(found, wanted)))
                shapes[name].append(found.shape)
    return [Row(path.name, n, tuple(shapes[n]), errors[n], tolerance, note) for n in names]


def relative_error(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """max|found − wanted| / max|wanted|; NaN or infinity if either holds one."""
    scale = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(found - wanted).max()) / scale


@contextmanager
def _observed(unet: Any, selection: Selection) -> Iterator[dict[str, torch.Tensor]]:
    """Collect a plain forward pass's resnet inputs, QKᵀ/√d, self-attention's Q and K, and what the
    encoder's last one gives, as its layer has it; hooks go on exit."""
    outputs: dict[str, torch.Tensor] = {}
    with ExitStack() as undo:
        for feature, resnet in zip(selection.features, selection.resnets, strict=True):
            hook = partial(_keep_input, outputs, feature.name)
            undo.callback(unet.get_submodule(resnet).register_forward_pre_hook(hook).remove)
        for feature, source in zip(selection.encoder, selection.encoder_layers, strict=True):
            hook = partial(_keep_output, outputs, feature.name)
            handle = unet.get_submodule(source.path).register_forward_hook(hook)
            undo.callback(handle.remove)
        for output in (*selection.attention, *selection.self_attention):
            layer = unet.get_submodule(output.layer)
            pair: dict[str, torch.Tensor] = {}
            for part in ("q", "k"):
                projected = getattr(layer, f"norm_{part}") or getattr(layer, f"to_{part}")
                hook = partial(_keep_output, pair, part)
                undo.callback(projected.register_forward_hook(hook).remove)
            own = output in selection.self_attention
            multiply = partial(_multiply, outputs, output, pair, own)
            undo.callback(layer.register_forward_hook(multiply).remove)
        yield outputs


def _keep_input(
    outputs: dict[str, torch.Tensor], name: str, _module: Any, args: tuple[Any, ...]
) -> None:
    outputs[name] = args[0]


def _keep_output(
    pair: dict[str, torch.Tensor], part: str, _module: Any, _args: Any, output: torch.Tensor
) -> None:
    pair[part] = output


def _multiply(
    outputs: dict[str, torch.Tensor],
    output: AttentionOutput,
    pair: dict[str, torch.Tensor],
    own: bool,
    layer: Any,
    _args: Any,
    _output: Any,
) -> None:
    """After an attention layer: its queries over √d, (batch, heads, pixels, d), and what they
    multiply to with its keys, (batch, heads, pixels, tokens); or with `own` the keys themselves."""
    query, key = _by_head(pair["q"], layer), _by_head(pair["k"], layer)
    outputs[output.queries] = query / query.shape[-1] ** 0.5
    if own:
        outputs[output.keys] = key
    else:
        outputs[output.name] = torch.einsum("bhpd,bhtd->bhpt", query, key) / query.shape[-1] ** 0.5


def _as_map(given: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(batch, channels, rows, columns) of (batch, pixels, channels), or of a map as it is."""
    if given.ndim == 4:
        return given
    return given.permute(0, 2, 1).reshape(len(given), given.shape[2], *grid)


def _by_head(projected: torch.Tensor, layer: Any) -> torch.Tensor:
    """(batch, heads, positions, d) of a projection or of what a norm made of it."""
    if projected.ndim == 4:
        return projected
    return projected.unflatten(2, (layer.heads, -1)).transpose(1, 2)


def _example(inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> Example:
    return Example(
        {name: value.numpy() for name, value in inputs.items()},
        {name: value.float().numpy() for name, value in outputs.items()},
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[OrtSession, str]]:
    """ONNX Runtime on `path`, on the CPU, and a note.

    ONNX Runtime's CPU provider has few bfloat16 kernels. Where it refuses the
    graph for that, the graph's own bfloat16 weights are run in float32, and the
    note says so.
    """
    with TemporaryDirectory(dir=path.parent) as scratch, ExitStack() as opened:
        note = ""
        try:
            session = OrtSession(path)
        except BundleError as error:
            refused = onnx_runtime().capi.onnxruntime_pybind11_state.NotImplemented
            if not isinstance(error.__cause__, refused):
                raise
            widened = Path(scratch) / path.name
            widen_bfloat16(path, widened)
            session = OrtSession(widened)
            note = "no bf16 on ONNX Runtime's CPU: bf16 weights, float32 arithmetic"
        yield opened.enter_context(session), note
