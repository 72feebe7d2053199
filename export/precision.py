"""Half precision inside, float32 where it matters: norms, softmax, logits, the rim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention

from .attention import Float32SoftmaxProcessor, JointProcessor
from .halves import drop_halves, store_halves

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def lowered(module: Any, precision: str, weights: str = "same") -> Iterator[torch.dtype]:
    """Compute `module` in `precision`; yields the dtype its inputs are to be cast to.

    Weights are cast in place and stay so, except those of GroupNorm and
    LayerNorm, which keep float32 and are fed float32. The hooks and attention
    processors that arrange it are undone on exit. Under fp32 only how weights
    are stored changes: in float32, or with `weights` "fp16" in half.
    """
    dtype = DTYPES[precision]
    if weights == "fp16":
        store_halves(module)
        yield dtype
        return
    drop_halves(module)
    if dtype is torch.float32:
        torch.nn.Module.float(module)
        yield dtype
        return
    torch.nn.Module.to(module, dtype)  # diffusers' own `to` only adds a warning
    with ExitStack() as undo:
        for layer in module.modules():
            if isinstance(layer, torch.nn.GroupNorm | torch.nn.LayerNorm):
                layer.float()
                undo.callback(layer.register_forward_pre_hook(_widen).remove)
                undo.callback(layer.register_forward_hook(partial(_narrow, dtype)).remove)
            elif isinstance(layer, Attention):
                undo.callback(layer.set_processor, layer.processor)
                joint = getattr(layer, "add_q_proj", None) is not None
                layer.set_processor(JointProcessor() if joint else Float32SoftmaxProcessor())
        yield dtype


def _widen(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() for value in args)


def _narrow(
    dtype: torch.dtype, _module: Any, _args: tuple[Any, ...], output: torch.Tensor
) -> torch.Tensor:
    return output.to(dtype)
