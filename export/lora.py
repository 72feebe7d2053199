"""LoRA weights, merged into a model before it is exported: W + scale · alpha / rank · B A.

Hu et al., arXiv 2106.09685. Files are kohya's (`lora_unet_…`, also by the names of Stable
Diffusion's own repositories, as for XL) and diffusers' of all its versions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from ..runtime.errors import ExportError
from .pickles import refuse_pickle
from .refusal import refusing

_PARTS: Final = {  # how the names of a part's layers begin
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "transformer.": "transformer",
    "base_model.model.": "unet",
}
_ROLES: Final = {"down": "down", "A": "down", "up": "up", "B": "up"}
_TENSOR: Final = re.compile(
    r"(?P<layer>.+?)\.(lora_linear_layer\.|lora[._])(?P<role>down|up|A|B)(\.default)?\.weight"
)
_PROCESSOR: Final = re.compile(r"\.processor\.(to_\w+?)_lora\.")  # diffusers' oldest
_LDM_LAYERS: Final = {  # of Stable Diffusion's own repositories → diffusers', dots as underscores
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_LDM_SINGLE: Final = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_2": "conv_out",
}
_LDM_BLOCK: Final = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)|middle_block_(\d)_(.+)")


@dataclass(frozen=True)
class _Pair:
    """A layer's two factors, A (rank, …) and B (…, rank), and what multiplies their product."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """One file's pairs by part and by layer, whose name has underscores for dots."""

    path: Path
    scale: float
    pairs: Mapping[str, Mapping[str, _Pair]]

    @property
    def name(self) -> str:
        return self.path.stem if self.scale == 1 else f"{self.path.stem}:{self.scale:g}"

    def merge(self, part: str, model: Any) -> None:
        """Add the file's products to the weights of `model`, which must be float32.

        Raises:
            ExportError: the file has layers that the model lacks, or of other shapes.
        """
        layers = {
            _flat(name): layer
            for name, layer in model.named_modules()
            if isinstance(getattr(layer, "weight", None), torch.Tensor)
        }
        per_block = getattr(model.config, "layers_per_block", 2)
        for name, pair in self.pairs.get(part, {}).items():
            layer = layers.get(name) or layers.get(_from_ldm(name, per_block))
            if layer is None:
                raise ExportError(
                    f"LoRA {self.path} changes {name}, which this {part} does not have; it was "
                    "made for another model"
                )
            product = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
            if product.shape != layer.weight.flatten(1).shape:
                raise ExportError(
                    f"LoRA {self.path} changes {name} as if it were {tuple(product.shape)}, and "
                    f"the {part}'s is {tuple(layer.weight.flatten(1).shape)}; it was made for "
                    "another model"
                )
            delta = product.mul_(self.scale * pair.scale).reshape(layer.weight.shape)
            # a new tensor: the old one may be the checkpoint's file itself
            layer.weight = torch.nn.Parameter(delta.add_(layer.weight), requires_grad=False)


def open_lora(text: str) -> Lora:
    """Read `FILE` or `FILE:scale`.

    Raises:
        ExportError: it is a pickle, damaged, no LoRA, or of a kind that is no product of two.
    """
    name, _, number = text.rpartition(":")
    try:
        path, scale = Path(name), float(number)
    except ValueError:
        path, scale = Path(text), 1.0
    if not path.name or not math.isfinite(scale):
        raise ExportError(f"LoRA {text!r} cannot be read; expected FILE or FILE:scale, as a:0.8")
    refuse_pickle(path)
    with refusing(f"LoRA {path} cannot be read"), safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        return Lora(path, scale, _pairs(path, tensors, metadata))


def _pairs(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> dict[str, dict[str, _Pair]]:
    factors: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        plain = _PROCESSOR.sub(r".\1.lora.", key).replace(".to_out.lora.", ".to_out.0.lora.")
        if found := _TENSOR.fullmatch(plain):
            layer, role = found["layer"], _ROLES[found["role"]]
        elif plain.endswith(".alpha"):
            layer, role = plain.removesuffix(".alpha").removesuffix(".lora"), "alpha"
        else:
            raise ExportError(
                f"{path} holds {key}, expected lora_down and lora_up, or lora_A and lora_B: it is "
                "no LoRA, or one of another kind (LoHa, LoKr, DoRA), to be merged by its own tools"
            )
        factors.setdefault(_part(layer), {})[role] = tensor
    pairs: dict[str, dict[str, _Pair]] = {}
    for (part, layer), roles in factors.items():
        if not {"down", "up"} <= set(roles):
            raise ExportError(f"LoRA {path} has half a pair for {layer}; it is damaged")
        rank = roles["down"].shape[0]
        if roles["up"].shape[1] != rank:
            raise ExportError(
                f"LoRA {path}: {layer} has ranks {rank} and {roles['up'].shape[1]}, expected one"
            )
        alpha = roles["alpha"].item() if "alpha" in roles else _alpha(metadata, part, layer, rank)
        root = math.sqrt(rank) if metadata.get(f"{part}.use_rslora") else rank
        pairs.setdefault(part, {})[layer] = _Pair(roles["down"], roles["up"], alpha / root)
    if not pairs:
        raise ExportError(f"{path} is empty, expected a LoRA")
    return pairs


def _part(layer: str) -> tuple[str, str]:
    """The part of a pipeline that a layer belongs to, and its name there."""
    for beginning, part in _PARTS.items():
        if layer.startswith(beginning):
            return part, _flat(layer.removeprefix(beginning))
    return "unet", _flat(layer)


def _flat(name: str) -> str:
    """A layer's name as kohya writes it; transformers 5 has dropped `text_model`."""
    return name.replace(".", "_").removeprefix("text_model_")


def _alpha(metadata: Mapping[str, Any], part: str, layer: str, rank: int) -> float:
    """What diffusers keeps beside the tensors; the rank itself, so that the scale is 1, if not."""
    for pattern, alpha in (metadata.get(f"{part}.alpha_pattern") or {}).items():
        if layer.endswith(_flat(pattern)):
            return float(alpha)
    return float(metadata.get(f"{part}.lora_alpha", rank))


def _from_ldm(name: str, per_block: Any) -> str:
    """diffusers' name of a UNet's layer that Stable Diffusion's own repositories number."""
    if name in _LDM_SINGLE:
        return _LDM_SINGLE[name]
    found = _LDM_BLOCK.fullmatch(name)
    if not found or not isinstance(per_block, int):
        return name
    side, index, kind, rest, middle, middle_rest = found.groups()
    if middle is not None:
        place = f"mid_block_{'attentions_0' if middle == '1' else f'resnets_{int(middle) // 2}'}"
        return f"{place}_{_LDM_LAYERS.get(middle_rest, middle_rest)}"
    number = int(index) - (side == "input")
    block, layer = divmod(number, per_block + 1)
    blocks = f"{'down' if side == 'input' else 'up'}_blocks_{block}"
    if rest == "op":
        return f"{blocks}_downsamplers_0_conv"
    if rest == "conv":
        return f"{blocks}_upsamplers_0_conv"
    if kind == "0":
        return f"{blocks}_resnets_{layer}_{_LDM_LAYERS.get(rest, rest)}"
    return f"{blocks}_attentions_{layer}_{rest}"
