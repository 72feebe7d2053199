"""The graphs: wrappers with the contract's inputs and outputs, traced and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from onnxscript.optimizer import optimize_ir
from torch import nn

from ..runtime.bundle import contract
from ..runtime.errors import ExportError
from .quiet import quiet
from .refusal import one_line
from .softmax import widen_softmax
from .weights import keeps_halves, strip_traces, turn_halves

_EXTERNAL_ABOVE: Final = 1 << 26
"""Bytes of weights. A file of their own is mapped instead of parsed, and a twin can share it."""
CELLS: Final = (2, 3)  # the example's grid at the coarsest stride, neither 0, 1 nor square
BATCH: Final = 2
_BATCH_LIMIT: Final = 63  # diffusers' upsampling copies memory from 64 on; the graph is the same


@dataclass(frozen=True)
class Graph:
    """A module ready to be traced: example inputs, their dynamic axes, output names.

    `dynamic` names the module's arguments; `outputs` gives each output's symbolic axes; `shared`
    tells that other graphs, cuts of this one, read the same weights.
    """

    filename: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    dynamic: Mapping[str, Mapping[int, Any]]
    outputs: Mapping[str, tuple[int, ...]]
    shared: bool = False


@dataclass(frozen=True)
class GraphFile:
    """A graph that is there already: its name in the bundle, and what writes it to a path."""

    filename: str
    write: Callable[[Path], None]


class VaeEncoder(nn.Module):  # type: ignore[misc]
    """image (batch, 3, H, W) in [-1, 1] → posterior mean (batch, c, h, w), both float32."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.vae = vae
        self.dtype = dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return encoded(self.vae, image.to(self.dtype)).float()


class TextEncoder(nn.Module):  # type: ignore[misc]
    """input_ids (batch, max_length) int64 → (batch, max_length, hidden) float32, of a hidden layer
    or, for None, of the last and its norm; with `pooled` (batch, pooled) float32 too."""

    def __init__(self, text_encoder: Any, layer: int | None, pooled: bool) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.layer = layer
        self.pooled = pooled

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.text_encoder(input_ids, output_hidden_states=self.layer is not None)
        whole = self.layer is None
        states = found.last_hidden_state if whole else found.hidden_states[self.layer]
        return (states.float(), found.text_embeds.float()) if self.pooled else (states.float(),)


def encoded(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """The latent an AutoencoderKL or AutoencoderTiny encodes `image` to, without sampling; in
    units of each channel's own mean and deviation where its configuration has them."""
    found = vae.encode(image)
    latent = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    means, deviations = (vae.config.get(f"latents_{of}") for of in ("mean", "std"))
    if means is None or deviations is None:
        return latent
    mean, deviation = (
        torch.tensor(v, dtype=latent.dtype, device=latent.device).reshape(1, -1, 1, 1)
        for v in (means, deviations)
    )
    return (latent - mean) / deviation


def vae_graph(vae: Any, dtype: torch.dtype, factor: int) -> Graph:
    """The VAE encoder; image sides are multiples of `factor`."""
    height, width = (4 * cells * factor for cells in CELLS)
    return Graph(
        contract.VAE_ENCODER,
        VaeEncoder(vae, dtype),
        {contract.IMAGE: torch.zeros(BATCH, 3, height, width)},
        {contract.IMAGE: spatial_axes(factor)},
        {contract.LATENT: (0, 2, 3)},
    )


def text_graph(
    text_encoder: Any, spec: contract.TextSpec, layer: int | None, any_length: bool
) -> Graph:
    """A text encoder, of prompts that are exactly `max_length` tokens long, or at most."""
    ids = torch.zeros(BATCH, spec.tokens.max_length, dtype=torch.int64)
    names = [contract.ENCODER_HIDDEN_STATES, *([contract.POOLED] if spec.pooled else [])]
    axes = {0: batch_axis()}
    if any_length:
        axes[1] = torch.export.Dim("tokens", min=2, max=spec.tokens.max_length)
    return Graph(
        spec.graph,
        TextEncoder(text_encoder, layer, bool(spec.pooled)),
        {contract.INPUT_IDS: ids},
        {contract.INPUT_IDS: axes},
        dict.fromkeys(names, (0,)),
    )


def write_graph(graph: Graph, path: Path, opset: int) -> None:
    """Trace `graph` and write it to `path`, its weights beside it where they are large or shared.

    Raises:
        ExportError: tracing failed, or froze an axis that must stay dynamic.
    """
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(graph.inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=dict(graph.dynamic),
                verbose=False,
                optimize=False,  # below, which keeps halves
            )
            assert program is not None
            optimize_ir(program.model, should_fold=keeps_halves)
    except Exception as error:  # the exporter's own, or what the model raises when it is traced
        reason = one_line(error.__cause__ or error)
        raise ExportError(
            f"{graph.filename} cannot be traced at opset {opset}: {reason}"
        ) from error
    model = program.model
    strip_traces(model)
    widen_softmax(model)
    turn_halves(model)
    _check_axes(graph, model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    program.save(str(path), external_data=graph.shared or size > _EXTERNAL_ABOVE)


def _check_axes(graph: Graph, model: Any) -> None:
    """Every axis that must stay dynamic is symbolic in the graph."""
    for value, axes in zip(model.graph.outputs, graph.outputs.values(), strict=True):
        for axis in axes:
            if isinstance(value.shape[axis], int):
                raise ExportError(
                    f"{graph.filename} froze axis {axis} of {value.name} at {value.shape[axis]}; "
                    "expected it to stay dynamic"
                )


def batch_axis() -> Any:
    """The dynamic number of rows."""
    return torch.export.Dim("batch", min=1, max=_BATCH_LIMIT)


def spatial_axes(multiple: int) -> dict[int, Any]:
    """Dynamic batch, height and width of an NCHW tensor, both sides multiples of `multiple`."""
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    return {0: batch_axis(), 2: multiple * rows, 3: multiple * columns}
