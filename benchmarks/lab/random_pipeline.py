"""Models of real size with random weights: speed does not depend on values.

No download, seeded, one component in memory at a time. The configurations are those of the
published checkpoints; weights are normal with variance 1 / fan-in, so that activations keep a
plausible size through the depth. The tokenizers hold the words of `WORDS` and letters.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from ..speed.task import CITYSCAPES
from .scenes.models import write_tokenizer

WORDS: Final = tuple(dict.fromkeys(" ".join((*CITYSCAPES, "and a photo of")).split()))

_MAX_LENGTH: Final = 77
_VOCABULARY: Final = 49_408

UNET: Final[dict[str, Any]] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""Stable Diffusion 1.x's."""
_UNET_2: Final[dict[str, Any]] = UNET | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_UNET_XL: Final[dict[str, Any]] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_MMDIT: Final[dict[str, Any]] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
CLIP_L: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
"""The text encoder of Stable Diffusion 1.x."""
_CLIP_H: Final = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_CLIP_G: Final = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
VAE: Final[dict[str, Any]] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
"""Stable Diffusion 1.x's and 2.x's."""
_VAE_XL: Final = VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
_VAE_3: Final = VAE | {
    "sample_size": 1024,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_DIFFUSION: Final = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_FLOW: Final = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


@dataclass(frozen=True)
class Shape:
    """A diffusers pipeline: its networks by their part's name, each a class and a configuration,
    its noise, and the type that its weights are stored in."""

    networks: Mapping[str, tuple[Any, dict[str, Any]]]
    scheduler: Mapping[str, Any] = field(default_factory=lambda: _DIFFUSION)
    pipeline: str = "StableDiffusionPipeline"
    dtype: torch.dtype = torch.float32


PIPELINES: Final[Mapping[str, Shape]] = {
    "sd14": Shape(
        {
            "unet": (UNet2DConditionModel, UNET),
            "vae": (AutoencoderKL, VAE),
            "text_encoder": (CLIPTextModel, CLIP_L),
        }
    ),
    "sd21": Shape(
        {
            "unet": (UNet2DConditionModel, _UNET_2),
            "vae": (AutoencoderKL, VAE),
            "text_encoder": (CLIPTextModel, _CLIP_H),
        }
    ),
    "sdxl": Shape(
        {
            "unet": (UNet2DConditionModel, _UNET_XL),
            "vae": (AutoencoderKL, _VAE_XL),
            "text_encoder": (CLIPTextModel, CLIP_L),
            "text_encoder_2": (CLIPTextModelWithProjection, _CLIP_G),
        },
        pipeline="StableDiffusionXLPipeline",
        dtype=torch.float16,
    ),
    "sd3": Shape(
        {
            "transformer": (SD3Transformer2DModel, _MMDIT),
            "vae": (AutoencoderKL, _VAE_3),
            "text_encoder": (CLIPTextModelWithProjection, CLIP_L),
            "text_encoder_2": (CLIPTextModelWithProjection, _CLIP_G),
        },
        _FLOW,
        "StableDiffusion3Pipeline",
        torch.float16,
    ),
}
"""Name → pipeline. SD3 is without its T5, as mdrt reads it."""
TOWERS: Final[Mapping[str, tuple[Any, Any]]] = {
    "clip-b16": (
        CLIPModel,
        CLIPConfig(
            text_config={"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
            vision_config={"patch_size": 16},
            projection_dim=512,
        ),
    ),
    "dinov2-s": (
        Dinov2Model,
        Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14),
    ),
}
"""Name → vision transformer; the rest is transformers' default."""
TAESD: Final = "taesd"
"""Another VAE, which goes with Stable Diffusion 1.x and 2.x: `mdrt export sd14 --vae taesd`."""


def save_random_pipeline(folder: Path, shape: str, seed: int = 0) -> None:
    """Write a model's directory.

    Args:
        folder: where it goes; must not exist.
        shape: a key of `PIPELINES` or `TOWERS`, or `TAESD`.
        seed: of the weights; the same seed writes the same files.

    Raises:
        FileExistsError: `folder` exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(folder.name + ".part")
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    shutil.rmtree(aside, ignore_errors=True)
    if shape == TAESD:
        _save(AutoencoderTiny, aside, seed)
    elif shape in TOWERS:
        kind, config = TOWERS[shape]
        if kind is CLIPModel:
            write_tokenizer(aside, WORDS, _MAX_LENGTH)
            for name, value in _text_config().items():
                setattr(config.text_config, name, value)
        _save(lambda: kind(config), aside, seed)
    else:
        _save_parts(aside, PIPELINES[shape], seed)
    aside.rename(folder)


def _save_parts(aside: Path, shape: Shape, seed: int) -> None:
    index: dict[str, Any] = {"_class_name": shape.pipeline}
    for part, (kind, config) in shape.networks.items():
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            write_tokenizer(aside / tokenizer, WORDS, _MAX_LENGTH)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            make = _text_maker(kind, config)
        else:
            make = _maker(kind, config)
        _save(make, aside / part, seed, shape.dtype)
        library = "transformers" if hasattr(transformers, kind.__name__) else "diffusers"
        index[part] = [library, kind.__name__]
    index["scheduler"] = ["diffusers", shape.scheduler["_class_name"]]
    (aside / "scheduler").mkdir()
    _write_json(aside / "scheduler" / "scheduler_config.json", shape.scheduler)
    _write_json(aside / "model_index.json", index)


def _maker(kind: Any, config: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: kind(**config)


def _text_maker(kind: Any, config: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: kind(CLIPTextConfig(**config, **_text_config()))


def _text_config() -> dict[str, int]:
    """What a text encoder has of the tokenizer that `write_tokenizer` writes."""
    return {
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": _MAX_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _save(
    make: Callable[[], Any], folder: Path, seed: int, dtype: torch.dtype = torch.float32
) -> None:
    torch.manual_seed(seed)
    _random(make, dtype).save_pretrained(folder)


def _random(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module with random weights, built without its own slow initialisation."""
    with torch.device("meta"):
        module = make().to(dtype)
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for name, values in module.named_parameters():
            if values.ndim > 1:
                values.normal_(std=values[0].numel() ** -0.5)
            else:  # a norm's weight, the scale of a layer, a class's embedding
                values.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, values in module.named_buffers():
            if name.endswith("position_ids"):
                values.copy_(torch.arange(values.shape[-1])[None])
            elif name.endswith("pos_embed"):
                values.normal_(std=0.5**0.5)  # as sines and cosines have
    return module


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


@click.command()
@click.argument("shape", type=click.Choice([*PIPELINES, *TOWERS, TAESD]))
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
def main(shape: str, output: Path, seed: int) -> None:
    """Write a model of SHAPE with random weights."""
    save_random_pipeline(output, shape, seed)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(f"{output}: {size / 1e9:.2f} GB")
