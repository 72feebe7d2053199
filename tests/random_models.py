"""Tiny diffusers pipelines with random weights, in the shapes real checkpoints have.

Everything is seeded: the same call writes the same bytes of weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from mdrt.export.components import Pipeline

WORDS = ("sky", "grass", "traffic", "light", "person", "tree", "a", "photo", "of", "and", "car")
MAX_LENGTH = 77  # CLIP's own
HIDDEN = 32


def clip_vocabulary(words: tuple[str, ...] = WORDS) -> tuple[dict[str, int], list[str]]:
    """A byte-level BPE vocabulary in CLIP's format in which each of `words` is one token.

    Returns:
        token → id, and the merges in order of rank. Every other text falls apart into bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[str] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # always join from the right, so that words share suffixes
            left, right = pieces[-2:]
            pieces[-2:] = [left + right]
            if left + right not in tokens:
                tokens.append(left + right)
                merges.append(f"{left} {right}")
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def save_tokenizer(directory: Path, pad_token: str = "<|endoftext|>") -> dict[str, int]:
    """Write a CLIP tokenizer as checkpoints hold it: `vocab.json`, `merges.txt`, configs."""
    directory.mkdir(parents=True)
    vocabulary, merges = clip_vocabulary()
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad_token,
    }
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary


def save_pipeline(
    directory: Path,
    unet: dict[str, Any],
    *,
    seed: int = 0,
    prediction_type: str = "epsilon",
    pad_token: str = "<|endoftext|>",
    tiny_vae: bool = False,
    vae_levels: int = 4,
    variant: str | None = None,
) -> Path:
    """Save a pipeline directory: UNet, VAE, text encoder, tokenizer, scheduler, index.

    With `variant` "fp16" the weights are float16, in files of that variant alone.
    """
    torch.manual_seed(seed)
    directory.mkdir(parents=True)

    def save(model: Any, part: str) -> None:
        kind = torch.float16 if variant == "fp16" else torch.float32
        model.to(kind).save_pretrained(directory / part, variant=variant)

    save(UNet2DConditionModel(**unet), "unet")
    save(make_vae(tiny_vae, vae_levels, unet["sample_size"]), "vae")
    vocabulary = save_tokenizer(directory / "tokenizer", pad_token)
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary[pad_token],
    )
    save(CLIPTextModel(text), "text_encoder")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
    ).save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.31.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny" if tiny_vae else "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def save_xl(
    directory: Path,
    unet: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    seed: int = 4,
) -> Path:
    """An SDXL-shaped pipeline: three levels, the first without attention, two text encoders of
    which the second projects a pooled embedding and pads with "!", and sizes as conditions.

    Args:
        unet: changes to its configuration.
        scheduler: another scheduler's configuration.
        vae: entries of the VAE's configuration that no constructor needs, as `latents_mean`.
    """
    config = sd1_unet(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 8),
        use_linear_projection=True,
        layers_per_block=1,
        cross_attention_dim=HIDDEN + 2 * HIDDEN,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    )
    save_pipeline(directory, config | (unet or {}), seed=seed)
    vocabulary = save_tokenizer(directory / "tokenizer_2", pad_token="!")
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=2 * HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=48,
        hidden_act="gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["!"],
    )
    CLIPTextModelWithProjection(text).save_pretrained(directory / "text_encoder_2")
    if scheduler is not None:
        (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    kind = "DDIMScheduler" if scheduler is None else scheduler["_class_name"]
    if vae is not None:
        path = directory / "vae" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | vae))
    path = directory / "model_index.json"
    index = json.loads(path.read_text()) | {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", kind],
    }
    path.write_text(json.dumps(index))
    return directory


def make_vae(tiny: bool, levels: int, sample_size: int) -> torch.nn.Module:
    """A TAESD-shaped VAE or a KL one, for a UNet of `sample_size` latent cells a side."""
    if tiny:
        blocks = (1,) + (1,) * (levels - 1)
        return AutoencoderTiny(
            encoder_block_out_channels=(16,) * levels,
            decoder_block_out_channels=(16,) * levels,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        )
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(16,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=sample_size * 2 ** (levels - 1),
    )


def sd1_unet(**changes: Any) -> dict[str, Any]:
    """A UNet configuration of Stable Diffusion 1.x's shape: four levels, the deepest without
    cross-attention, one head count for all levels, convolutional projections."""
    return {
        "sample_size": 16,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 2,
        "attention_head_dim": 8,  # diffusers' name for what is a number of heads
        "cross_attention_dim": HIDDEN,
        "norm_num_groups": 8,
        **changes,
    }


def sd2_unet(**changes: Any) -> dict[str, Any]:
    """A UNet configuration of Stable Diffusion 2.x's shape: heads per level, linear
    projections, attention computed in float32; one layer a block, to be traced in half the time."""
    return sd1_unet(
        layers_per_block=1,
        attention_head_dim=(2, 4, 8, 8),
        use_linear_projection=True,
        upcast_attention=True,
        **changes,
    )


def save_sd1(directory: Path, **options: Any) -> Path:
    """An SD 1.x-shaped pipeline: epsilon prediction, padded with the end token."""
    return save_pipeline(directory, sd1_unet(), **options)


def save_sd2(directory: Path, **options: Any) -> Path:
    """An SD 2.x-shaped pipeline: v-prediction, padded with "!"."""
    options = {"seed": 2, "prediction_type": "v_prediction", "pad_token": "!"} | options
    return save_pipeline(directory, sd2_unet(), **options)


def save_odd(directory: Path, **options: Any) -> Path:
    """Three uneven levels, cross-attention at the deepest level only, two transformer layers
    there, every self-attention replaced by cross-attention, and a VAE of two levels."""
    unet = sd1_unet(
        sample_size=8,
        block_out_channels=(32, 48, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=(1, 2, 1),
        transformer_layers_per_block=(1, 1, 2),
        only_cross_attention=True,
        attention_head_dim=4,
    )
    return save_pipeline(directory, unet, **{"seed": 3, "vae_levels": 2} | options)


def save_sd3(directory: Path, **changes: Any) -> Path:
    """An SD 3-shaped pipeline: two CLIP text encoders, a T5 that is not there, flow noise; with
    `changes` of the transformer's configuration."""
    torch.manual_seed(4)
    directory.mkdir(parents=True)
    config = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_projection_dim": 32,
        "joint_attention_dim": 80,
        "pooled_projection_dim": 40,
        "pos_embed_max_size": 12,
        **changes,
    }
    SD3Transformer2DModel(**config).save_pretrained(directory / "transformer")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        sample_size=16,
    )
    vae.save_pretrained(directory / "vae")
    for number, width, projected in (("", 32, 16), ("_2", 40, 24)):
        vocabulary = save_tokenizer(directory / f"tokenizer{number}")
        text = CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=projected,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
        CLIPTextModelWithProjection(text).save_pretrained(directory / f"text_encoder{number}")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def load_part(pipeline: Pipeline, part: str) -> Any:
    """A network of a pipeline, as the exporter loads it."""
    if part == "unet":
        return pipeline.load(part, UNet2DConditionModel)
    return pipeline.vae() if part == "vae" else pipeline.text_encoder(0)


def _stirred(model: Any) -> Any:
    """With weights large enough that pictures and names are told apart."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def save_clip(directory: Path, *, seed: int = 4, blocks: int = 8, **vision: Any) -> Path:
    """A CLIP of vision and text transformer as hubs hold it: one directory, tokenizer included."""
    torch.manual_seed(seed)
    vocabulary = save_tokenizer(directory)
    size = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_attention_heads": 4}
    text = {
        "vocab_size": len(vocabulary),
        "num_hidden_layers": 2,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    vision = {"num_hidden_layers": blocks, "image_size": 32, "patch_size": 8} | vision
    config = CLIPConfig(text_config=size | text, vision_config=size | vision, projection_dim=24)
    _stirred(CLIPModel(config)).save_pretrained(directory)
    return directory


def save_dinov2(directory: Path, *, seed: int = 5, registers: int = 0) -> Path:
    """A DINOv2 as hubs hold it, with registers or without."""
    torch.manual_seed(seed)
    size = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    }
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**size, num_register_tokens=registers))
        if registers
        else Dinov2Model(Dinov2Config(**size))
    )
    _stirred(model).save_pretrained(directory)
    return directory
