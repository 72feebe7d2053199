"""The embedded model's configurations: Stable Diffusion's own architecture, made small.

The text encoder has no transformer layer: token and position embeddings and the final norm.
One causal layer already lets padding and end tokens summarise the whole caption, the UNet
reads those, and the words' own maps decay as training goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .captions import WORDS

LATENT_CHANNELS = 8
NATIVE_SIZE = 384
"""Pixels a picture is seen at; most of the training is at 256, but finer grids make finer masks."""
TEXT_WIDTH = 128
MAX_LENGTH = 40
"""Tokens of a prompt: fourteen names joined by "and" need 29; the fewer are padding the better."""


def vae_config() -> dict[str, Any]:
    """An AutoencoderTiny (as TAESD) of factor 16 with eight latent channels.

    It has no norms, so it learns absolute colours in minutes where an AutoencoderKL took an
    hour's worth of steps to. No block works at full resolution: a quarter of the cost.
    """
    channels = (32,) * 5
    return {
        "in_channels": 3,
        "out_channels": 3,
        "encoder_block_out_channels": channels,
        "decoder_block_out_channels": channels,
        "num_encoder_blocks": (0, 1, 1, 1, 2),
        "num_decoder_blocks": (2, 1, 1, 1, 0),
        "latent_channels": LATENT_CHANNELS,
        "force_upcast": False,
    }


def unet_config() -> dict[str, Any]:
    """Three levels, 16×16, 8×8 and 4×4 for a 256² picture; text enters at the first alone.

    Where coarse levels also read the caption they use it as a description of the whole picture,
    with large logits that point nowhere, and the words' maps at 16×16 stay vague.
    """
    channels = (96, 128, 128)
    return {
        "sample_size": NATIVE_SIZE // 16,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "layers_per_block": 1,
        "block_out_channels": channels,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
        "use_linear_projection": True,
    }


def text_config(vocabulary: int) -> dict[str, Any]:
    """CLIP's text encoder without its transformer layers."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_WIDTH,
        "num_hidden_layers": 0,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "projection_dim": TEXT_WIDTH,
    }


def scheduler_config() -> dict[str, Any]:
    """Stable Diffusion's noise schedule with v-prediction (as Stable Diffusion 2)."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def _encode(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: apply the merges to a word's parts, first merge first."""
    for pair in merges:
        at = 0
        while at < len(parts) - 1:
            if (parts[at], parts[at + 1]) == pair:
                parts = [*parts[:at], "".join(pair), *parts[at + 2 :]]
            at += 1
    return parts


def write_tokenizer(
    folder: Path, words: Sequence[str] = WORDS, max_length: int = MAX_LENGTH
) -> None:
    """Write CLIP's tokenizer files with merges that make every one of `words` one token.

    Any other word still has tokens: CLIP's byte alphabet, as letters.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = _encode([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = _encode(parts, merges)
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{a}</w>" for a in alphabet)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    configuration = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2))
