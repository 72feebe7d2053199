"""The graphs: wrappers with the contract's inputs and outputs, traced and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from ..runtime.bundle import contract
from ..runtime.errors import ExportError
from .attention import text_keys, text_values
from .capture import Capture
from .probe import Selection
from .quiet import quiet
from .refusal import one_line
from .softmax import widen_softmax
from .weights import store_as_float16, strip_traces

_EXTERNAL_ABOVE: Final = 1 << 26
"""Bytes of weights. A file of their own is mapped instead of parsed, and a twin can share it."""
_CELLS: Final = (2, 3)  # the example's grid at the coarsest stride, neither 0, 1 nor square
_BATCH: Final = 2
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


class VaeEncoder(nn.Module):  # type: ignore[misc]
    """image (batch, 3, H, W) in [-1, 1] → posterior mean (batch, c, h, w), both float32."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.vae = vae
        self.dtype = dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return posterior_mean(self.vae, image.to(self.dtype)).float()


class TextEncoder(nn.Module):  # type: ignore[misc]
    """input_ids (batch, max_length) int64 → (batch, max_length, hidden) float32."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.text_encoder(input_ids).last_hidden_state.float()


class CutUNet(nn.Module):  # type: ignore[misc]
    """sample, timestep, encoder_hidden_states → the captured tensors, all float32."""

    def __init__(self, unet: Any, captured: Capture, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet = unet
        self.captured = captured
        self.dtype = dtype

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return self.captured.run(
            sample.to(self.dtype), timestep, encoder_hidden_states.to(self.dtype)
        )


class TextKeys(nn.Module):  # type: ignore[misc]
    """encoder_hidden_states (batch, max_length, hidden) → K of every selected layer, (batch, heads,
    max_length, d), then V W of each, (batch, heads, max_length, D), all float32."""

    def __init__(self, unet: Any, selection: Selection, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(unet.get_submodule(a.layer) for a in selection.attention)
        self.dtype = dtype

    def forward(self, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states = encoder_hidden_states.to(self.dtype)
        return tuple(
            part(layer, states).float()
            for part in (text_keys, text_values)
            for layer in self.layers
        )


def posterior_mean(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """The latent an AutoencoderKL or AutoencoderTiny encodes `image` to, without sampling."""
    encoded = vae.encode(image)
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean


def vae_graph(vae: Any, dtype: torch.dtype, factor: int) -> Graph:
    """The VAE encoder; image sides are multiples of `factor`."""
    height, width = (4 * cells * factor for cells in _CELLS)
    return Graph(
        contract.VAE_ENCODER,
        VaeEncoder(vae, dtype),
        {contract.IMAGE: torch.zeros(_BATCH, 3, height, width)},
        {contract.IMAGE: _spatial(factor)},
        {contract.LATENT: (0, 2, 3)},
    )


def text_graph(text_encoder: Any, max_length: int) -> Graph:
    """The text encoder, of prompts that are exactly `max_length` tokens long."""
    ids = torch.zeros(_BATCH, max_length, dtype=torch.int64)
    return Graph(
        contract.TEXT_ENCODER,
        TextEncoder(text_encoder),
        {contract.INPUT_IDS: ids},
        {contract.INPUT_IDS: {0: _batch()}},
        {contract.ENCODER_HIDDEN_STATES: (0,)},
    )


def keys_graph(
    unet: Any, dtype: torch.dtype, max_length: int, width: int, selection: Selection
) -> Graph:
    """What brings text embeddings to the keys and values of the selected cross-attention layers."""
    return Graph(
        contract.KEYS,
        TextKeys(unet, selection, dtype),
        {contract.ENCODER_HIDDEN_STATES: torch.zeros(_BATCH, max_length, width)},
        {contract.ENCODER_HIDDEN_STATES: {0: _batch()}},
        {a.keys: (0,) for a in selection.attention} | {a.values: (0,) for a in selection.attention},
    )


def unet_graph(
    unet: Any,
    captured: Capture,
    dtype: torch.dtype,
    max_length: int,
    width: int,
    down_factor: int,
    selection: Selection,
) -> Graph:
    """The UNet, cut; latent sides are multiples of `down_factor`."""
    h, w = (cells * down_factor for cells in _CELLS)
    spatial = _spatial(down_factor)
    features: dict[str, tuple[int, ...]] = {f.name: (0, 2, 3) for f in selection.features}
    logits: dict[str, tuple[int, ...]] = {a.name: (0, 2) for a in selection.attention}
    return Graph(
        contract.UNET,
        CutUNet(unet, captured, dtype),
        {
            contract.SAMPLE: torch.zeros(_BATCH, unet.config.in_channels, h, w),
            contract.TIMESTEP: torch.zeros(_BATCH, dtype=torch.int64),
            contract.ENCODER_HIDDEN_STATES: torch.zeros(_BATCH, max_length, width),
        },
        {
            contract.SAMPLE: spatial,
            contract.TIMESTEP: {0: spatial[0]},
            contract.ENCODER_HIDDEN_STATES: {0: spatial[0]},
        },
        features
        | logits
        | {a.queries: (0, 2) for a in selection.attention}
        | {name: (0, 2) for a in selection.self_attention for name in (a.queries, a.keys)}
        | {f.name: (0, 2, 3) for f in selection.encoder},
        shared=True,
    )


def write_graph(graph: Graph, path: Path, opset: int, float16_weights: bool) -> None:
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
            )
    except Exception as error:  # the exporter's own, or what the model raises when it is traced
        reason = one_line(error.__cause__ or error)
        raise ExportError(
            f"{graph.filename} cannot be traced at opset {opset}: {reason}"
        ) from error
    assert program is not None
    model = program.model
    strip_traces(model)
    widen_softmax(model)
    if float16_weights:
        store_as_float16(model)
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


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=_BATCH_LIMIT)


def _spatial(multiple: int) -> dict[int, Any]:
    """Dynamic batch, height and width of an NCHW tensor, both sides multiples of `multiple`."""
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    return {0: _batch(), 2: multiple * rows, 3: multiple * columns}
