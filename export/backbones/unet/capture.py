"""Cut a UNet after the last wanted tensor, and return those tensors instead of its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from ...attention import Float32SoftmaxProcessor, split_heads
from .probe import Selection


class Capture:
    """The wanted tensors of a forward pass."""

    def __init__(self, unet: Any, names: Sequence[str]) -> None:
        self._unet = unet
        self._names = names
        self._tensors: dict[str, torch.Tensor] = {}
        self._sides: Sequence[int] = ()

    def record_map(self, name: str, reduction: int, pixels: torch.Tensor) -> None:
        """Keep a map that has a cell for `reduction` latent ones, given as (batch, pixels,
        channels)."""
        grid = [side // reduction for side in self._sides]
        self.record(name, pixels.transpose(1, 2).unflatten(2, grid))

    def record(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor of the pass under way."""
        self._tensors[name] = tensor

    def run(self, *inputs: Any, **conditions: Any) -> tuple[torch.Tensor, ...]:
        """One pass of what the UNet takes, the first a sample (batch, channels, h, w).

        Returns:
            The selection's tensors in its order, float32.
        """
        self._sides = inputs[0].shape[2:]
        try:
            self._unet(*inputs, **conditions)
            return tuple(self._tensors[name].float() for name in self._names)
        finally:
            self._tensors = {}


@contextmanager
def capture(unet: Any, selection: Selection) -> Iterator[Capture]:
    """Cut `unet` and hook its selected layers; on exit all of it is undone.

    Up blocks after the last selected layer and the output convolution do not
    run. What the last block still computes after it reaches no output, so the
    tracer drops it as dead code, weights included.
    """
    captured = Capture(unet, selection.names)
    with ExitStack() as undo:
        for feature, path in zip(selection.features, selection.resnets, strict=True):
            hook = partial(_record_input, captured, feature.name)
            undo.callback(unet.get_submodule(path).register_forward_pre_hook(hook).remove)
        for output in selection.attention:
            layer = unet.get_submodule(output.layer)
            undo.callback(layer.set_processor, layer.processor)
            processor = Float32SoftmaxProcessor(
                partial(captured.record, output.name),
                queries=partial(captured.record, output.queries),
            )
            layer.set_processor(processor)
        for output in selection.self_attention:
            layer = unet.get_submodule(output.layer)
            for part, name, scale in (("q", output.queries, layer.scale), ("k", output.keys, 1.0)):
                projection = getattr(layer, f"norm_{part}") or getattr(layer, f"to_{part}")
                hook = partial(_record_heads, captured, name, layer.heads, scale)
                undo.callback(projection.register_forward_hook(hook).remove)
        for feature, source in zip(selection.encoder, selection.encoder_layers, strict=True):
            hook = partial(_record_output, captured, feature.name, source.reduction)
            handle = unet.get_submodule(source.path).register_forward_hook(hook)
            undo.callback(handle.remove)
        kept = _last_up_block(selection) + 1
        for name, replacement in (
            ("up_blocks", unet.up_blocks[:kept]),
            ("conv_norm_out", None),
            ("conv_out", torch.nn.Identity()),
        ):
            undo.callback(setattr, unet, name, getattr(unet, name))
            setattr(unet, name, replacement)
        yield captured


def _last_up_block(selection: Selection) -> int:
    """The index of the last up block that holds a selected layer."""
    attention = (*selection.attention, *selection.self_attention)
    paths = [*selection.resnets, *(output.layer for output in attention)]
    return max(int(path.split(".")[1]) for path in paths if path.startswith("up_blocks."))


def _record_input(captured: Capture, name: str, _module: Any, args: tuple[Any, ...]) -> None:
    captured.record(name, args[0])


def _record_heads(
    captured: Capture,
    name: str,
    heads: int,
    scale: float,
    _module: Any,
    _args: Any,
    output: torch.Tensor,
) -> None:
    """Of a projection, or of the norm behind it, which sees heads apart."""
    apart = output if output.ndim == 4 else split_heads(output, heads)
    captured.record(name, apart.float() * scale)


def _record_output(
    captured: Capture, name: str, reduction: int, _module: Any, _args: Any, output: torch.Tensor
) -> None:
    """Of an attention layer, whose pixels are a sequence or, in the oldest blocks, a grid."""
    if output.ndim == 4:
        captured.record(name, output)
    else:
        captured.record_map(name, reduction, output)
