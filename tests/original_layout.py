"""Pipelines as one file, in the layout of Stable Diffusion's original repositories.

Written down from those repositories' modules: `openaimodel.UNetModel` counts its blocks through,
`model.Encoder` and `Decoder` are numbered from the picture on, OpenCLIP joins queries, keys and
values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

Weights = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with the layer that it begins with by its other name."""
    for ours, theirs in table.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def unet(weights: Weights, layers: int) -> Weights:
    """A UNet's weights, `layers` resnets to a down block."""
    attended = {
        name.split(".")[1] for name in weights if re.match(r"up_blocks.\d.attentions", name)
    }

    def original(name: str) -> str:
        side, *rest = name.split(".")
        if side == "mid_block":
            kind, index, *inner = rest
            number = 1 if kind == "attentions" else 2 * int(index)
            return f"middle_block.{number}.{renamed('.'.join(inner), RESNET)}"
        if side not in ("down_blocks", "up_blocks"):
            return renamed(name, UNET)
        block, kind, index, *inner = rest
        first = int(block) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{inner[-1]}"
        if kind == "upsamplers":
            place = 2 if block in attended else 1
            return f"output_blocks.{first + layers}.{place}.conv.{inner[-1]}"
        number = first + int(index) + (side == "down_blocks")
        place = f"{'input' if side == 'down_blocks' else 'output'}_blocks.{number}"
        within = ".".join(inner)
        if kind == "attentions":
            return f"{place}.1.{within}"
        return f"{place}.0.{renamed(within, RESNET)}"

    return {f"model.diffusion_model.{original(name)}": tensor for name, tensor in weights.items()}


def vae(weights: Weights, levels: int) -> Weights:
    """An AutoencoderKL's weights; its attention was made of 1×1 convolutions."""
    found = {}
    for name, tensor in weights.items():
        side, *rest = name.split(".")
        if len(rest) > 1 and rest[0] == "mid_block":
            if rest[1] == "attentions":
                layer = renamed(".".join(rest[3:]), VAE_ATTENTION)
                within = f"mid.attn_1.{layer}"
                if tensor.ndim == 2:
                    tensor = tensor[:, :, None, None]
            else:
                within = f"mid.block_{int(rest[2]) + 1}.{'.'.join(rest[3:])}"
        elif rest[0] == "down_blocks":
            kind = "block" if rest[2] == "resnets" else "downsample"
            inner = rest[3:] if kind == "block" else rest[4:]
            within = f"down.{rest[1]}.{kind}.{'.'.join(inner)}"
        elif rest[0] == "up_blocks":
            kind = "block" if rest[2] == "resnets" else "upsample"
            inner = rest[3:] if kind == "block" else rest[4:]
            within = f"up.{levels - 1 - int(rest[1])}.{kind}.{'.'.join(inner)}"
        else:
            within = ".".join(rest).replace("conv_norm_out", "norm_out")
        name = f"{side}.{within}".replace("conv_shortcut", "nin_shortcut")
        found[f"first_stage_model.{name}"] = tensor
    return found


def clip(weights: Weights, prefix: str = "cond_stage_model.transformer.") -> Weights:
    """A text encoder of OpenAI's, as transformers 4 called its weights."""
    names = ((name.removeprefix("text_model."), tensor) for name, tensor in weights.items())
    return {f"{prefix}text_model.{name}": tensor for name, tensor in names}


def openclip(weights: Weights, prefix: str = "cond_stage_model.model.") -> Weights:
    """A text encoder of OpenCLIP's."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    width = plain["final_layer_norm.weight"].shape[0]
    found = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
        "text_projection": plain.get("text_projection.weight", torch.eye(width)).T.contiguous(),
    }
    layers = 1 + max(int(name.split(".")[2]) for name in plain if name.startswith("encoder."))
    for index in range(layers):
        ours, theirs = f"encoder.layers.{index}", f"transformer.resblocks.{index}"
        for kind in ("weight", "bias"):
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(
                [plain[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            for a, b in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                found[f"{theirs}.{b}.{kind}"] = plain[f"{ours}.{a}.{kind}"]
    return {prefix + name: tensor for name, tensor in found.items()}


def one_file(
    network: Any, encoder: Any, text: Any, *, of_text: Callable[[Weights], Weights] = clip
) -> Weights:
    """A whole checkpoint of a pipeline's three models, with what real ones hold beside them."""
    names = network.state_dict(), encoder.state_dict(), text.state_dict()
    found = unet(names[0], network.config.layers_per_block)
    found |= vae(names[1], len(encoder.config.block_out_channels))
    found |= of_text(names[2])
    found["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    found["model_ema.decay"] = torch.tensor(0.9999)
    return {name: tensor.contiguous() for name, tensor in found.items()}
