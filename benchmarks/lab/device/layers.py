"""Operations and bytes of the networks at Stable Diffusion 1.x's shapes.

Counted by running the published architecture on PyTorch's meta device, where shapes
are computed and values are not: every convolution, linear layer and attention product is one
operation, with its inputs, weights and outputs moved once in fp16; everything else counts as fused
into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPAttention

from ..random_pipeline import CLIP_L, UNET, VAE
from .counts import HALF, SIDE, Operation, Stage

TOKENS: Final = 77


class _Reached(Exception):
    """The last layer the graph holds has run."""


def networks() -> list[Stage]:
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKL(**VAE)
        text = CLIPTextModel(CLIPTextConfig(**CLIP_L))
        with _counted(vae) as encoding:
            vae.encode(torch.empty(1, 3, SIDE, SIDE))
        with _counted(text) as prompt:
            text(torch.zeros(1, TOKENS, dtype=torch.long))
    return [
        Stage("VAE encoder", tuple(encoding)),
        Stage("text encoder (once a class list)", tuple(prompt)),
        unet(),
    ]


def unet(whole: bool = False) -> Stage:
    """A pass of batch 1, to the last features the graph reads, or to the end."""
    config = UNET
    with torch.device("meta"), torch.no_grad():
        model = UNet2DConditionModel(**config)
        if not whole:  # the features of stride 16 enter the third up block's last resnet
            model.up_blocks[2].resnets[-1].register_forward_pre_hook(_stop)
        with _counted(model) as found, suppress(_Reached):
            latent = torch.empty(1, 4, SIDE // 8, SIDE // 8)
            hidden = torch.empty(1, TOKENS, config["cross_attention_dim"])
            model(latent, torch.zeros(1, dtype=torch.long), hidden)
    return Stage(
        "for comparison: the whole UNet" if whole else "UNet, up to the 32² features", tuple(found)
    )


def _stop(module: nn.Module, arguments: Any) -> None:
    raise _Reached


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[Operation]]:
    """Collects the operations of the model's layers as they run."""
    found: list[Operation] = []

    def layer(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        weight: torch.Tensor = module.weight
        values = arguments[0].numel() + weight.numel() + output.numel()
        flops = 2 * output.numel() * weight[0].numel()
        found.append(Operation("fp16", flops, HALF * values))

    def attention(
        module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Any
    ) -> None:
        queries = arguments[0] if arguments else options["hidden_states"]
        if queries.ndim == 4:  # the VAE's, over pixels
            queries = queries.flatten(2).transpose(1, 2)
        context = options.get("encoder_hidden_states")
        keys = queries.shape[1] if context is None else context.shape[1]
        n, width = queries.shape[1:]  # as wide inside, in all of these networks
        found.append(Operation("fp16", 4 * n * keys * width, HALF * 2 * (n + keys) * width))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(layer))
        elif isinstance(module, Attention | CLIPAttention):
            handles.append(module.register_forward_hook(attention, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
