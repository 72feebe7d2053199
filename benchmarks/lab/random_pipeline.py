"""Stable Diffusion pipelines of real size with random weights: speed does not depend on values.

No download, seeded, one component in memory at a time. The configurations are those of the
published checkpoints; weights are normal with variance 1 / fan-in, so that activations keep a
plausible size through the depth. The tokenizer holds the words of `WORDS` and letters.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ..speed.task import CITYSCAPES
from .scenes.models import write_tokenizer

WORDS: Final = tuple(dict.fromkeys(" ".join((*CITYSCAPES, "and a photo of")).split()))

_MAX_LENGTH: Final = 77
_UNET_1: Final[dict[str, Any]] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_UNET_2: Final[dict[str, Any]] = _UNET_1 | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_CLIP_L: Final = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_CLIP_H: Final = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
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

SHAPES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "sd14": (_UNET_1, _CLIP_L),
    "sd21": (_UNET_2, _CLIP_H),
}
"""Name → UNet, text encoder; the VAE is the same."""
TAESD: Final = "taesd"
"""Another VAE, which goes with either: `mdrt export sd14 --vae taesd`."""


def save_random_pipeline(folder: Path, shape: str, seed: int = 0) -> None:
    """Write a diffusers pipeline directory, or TAESD's, float32.

    Args:
        folder: where it goes; must not exist.
        shape: a key of `SHAPES`, or `TAESD`.
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
        torch.manual_seed(seed)
        _random(AutoencoderTiny).save_pretrained(aside)
    else:
        _save_parts(aside, *SHAPES[shape], seed)
    aside.rename(folder)


def _save_parts(aside: Path, unet: dict[str, Any], text: dict[str, Any], seed: int) -> None:
    write_tokenizer(aside / "tokenizer", WORDS, _MAX_LENGTH)
    vocabulary = len(json.loads((aside / "tokenizer" / "vocab.json").read_text()))
    text_config = CLIPTextConfig(
        **(_CLIP_L | text),
        vocab_size=max(49_408, vocabulary),
        max_position_embeddings=_MAX_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    makers: dict[str, Callable[[], Any]] = {
        "unet": lambda: UNet2DConditionModel(**unet),
        "vae": lambda: AutoencoderKL(**VAE),
        "text_encoder": lambda: CLIPTextModel(text_config),
    }
    for part, make in makers.items():
        torch.manual_seed(seed)
        _random(make).save_pretrained(aside / part)
    (aside / "scheduler").mkdir()
    _write_json(aside / "scheduler" / "scheduler_config.json", _SCHEDULER)
    _write_json(
        aside / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


_SCHEDULER: Final = {
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


def _random(make: Callable[[], Any]) -> Any:
    """A module with random weights, built without its own slow initialisation."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm | torch.nn.LayerNorm):
            part.reset_parameters()
    with torch.no_grad():
        for name, values in module.named_parameters():
            if values.ndim > 1:
                values.normal_(std=values[0].numel() ** -0.5)
            elif name.endswith("bias"):
                values.zero_()
        for name, values in module.named_buffers():
            if name.endswith("position_ids"):
                values.copy_(torch.arange(values.shape[-1])[None])
    return module


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


@click.command()
@click.argument("shape", type=click.Choice([*SHAPES, TAESD]))
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
def main(shape: str, output: Path, seed: int) -> None:
    """Write a pipeline of SHAPE with random weights."""
    save_random_pipeline(output, shape, seed)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(f"{output}: {size / 1e9:.2f} GB")
