"""Models as diffusers' own tests have them and as they are published: exported and proved, or
refused in one line that says what they need."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import random_models

from mdrt.export import exporter
from mdrt.export.backbones import open_backbone
from mdrt.export.options import ExportOptions
from mdrt.runtime.errors import ExportError

TWO_LEVELS = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "sample_size": 32,
    "norm_num_groups": 2,
}
UNETS = {
    "diffusers' Stable Diffusion": TWO_LEVELS,
    "attention at the first level, eight channels": {
        **TWO_LEVELS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "in_channels": 8,
        "sample_size": 16,
    },
    "no middle": {**TWO_LEVELS, "mid_block_type": None, "sample_size": (16, 24)},
}
XLS = {
    "diffusers' Stable Diffusion XL": {
        **TWO_LEVELS,
        "block_out_channels": (2, 4),
        "layers_per_block": 2,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "norm_num_groups": 1,
    },
    "SSD-1B": {  # fewer transformers, not as many up as down, none in the middle
        "transformer_layers_per_block": (1, (1,), (2,)),
        "reverse_transformer_layers_per_block": ((2, 1), (1, 1), 1),
        "mid_block_type": "UNetMidBlock2D",
    },
}


def proved(pipeline: Path, **options: Any) -> exporter._ExportJob:
    """Export the network alone: the other parts are as in other models."""
    chosen = ExportOptions(**options)
    folder = pipeline / "bundle"
    folder.mkdir()
    job = exporter._ExportJob(open_backbone(pipeline, chosen), chosen, folder, print)
    job._network(job._manifest())
    assert job.rows
    assert all(row.passed for row in job.rows)
    return job


@pytest.mark.parametrize("name", UNETS)
def test_a_unet(tmp_path: Path, name: str) -> None:
    unet = random_models.sd1_unet(**UNETS[name])
    job = proved(random_models.save_pipeline(tmp_path / "model", unet, vae_levels=2))
    sides = unet["sample_size"]
    assert job.backbone.image.native_size == 2 * (sides if isinstance(sides, int) else max(sides))
    assert {len(row.shapes) for row in job.rows if row.graph == "unet.onnx"} == {5}


@pytest.mark.parametrize("name", XLS)
def test_an_xl(tmp_path: Path, name: str) -> None:
    proved(random_models.save_xl(tmp_path / "model", unet=XLS[name]))


@pytest.fixture(scope="module")
def described(sd1: Path, workspace: Path) -> Mapping[str, Path]:
    """Pipelines without weights, which a refusal never reads."""
    xl, sd3 = (workspace / f"odd-{kind}" for kind in ("xl", "sd3"))
    return {
        "sd": sd1,
        "xl": random_models.save_xl(xl),
        "sd3": random_models.save_sd3(sd3),
    }


def changed(source: Path, target: Path, file: str, changes: Mapping[str, Any]) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "bundle"))
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def of(kind: str, name: str) -> list[str]:
    return ["transformers" if kind.startswith("text") else "diffusers", name]


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    # model: what it is like, the file that differs, how, what is said
    "depth": ("sd", "unet/config.json", {"in_channels": 5}, "depth or a smaller picture"),
    "upscaler": ("sd", "unet/config.json", {"num_class_embeds": 1000}, "low-resolution picture"),
    "unCLIP": ("sd", "unet/config.json", {"class_embed_type": "projection"}, "level of its own"),
    "LCM": ("sd", "unet/config.json", {"time_cond_proj_dim": 32}, "guidance scale"),
    "IP-Adapter": (
        "sd",
        "unet/config.json",
        {"encoder_hid_dim": 8, "encoder_hid_dim_type": "ip_image_proj"},
        "another network projects",
    ),
    "refiner": (
        "xl",
        "unet/config.json",
        {"projection_class_embeddings_input_dim": 48 + 5 * 8},
        "aesthetic score",
    ),
    "Kolors": (
        "xl",
        "model_index.json",
        {"text_encoder": ["kolors", "ChatGLMModel"]},
        "text_encoder is a ChatGLMModel",
    ),
    "Kandinsky 2.1": (
        "sd",
        "unet/config.json",
        {"addition_embed_type": "text_image", "encoder_hid_dim": 8},
        "extra conditioning",
    ),
    "Kandinsky 2.2": ("sd", "model_index.json", {"text_encoder": None}, "has no text_encoder"),
    "Kandinsky 3": (
        "sd",
        "model_index.json",
        {"unet": of("unet", "Kandinsky3UNet")},
        "unet is a Kandinsky3UNet",
    ),
    "Flux": (
        "sd3",
        "model_index.json",
        {"transformer": of("transformer", "FluxTransformer2DModel")},
        "transformer is a FluxTransformer2DModel",
    ),
    "PixArt": (
        "sd3",
        "model_index.json",
        {"transformer": of("transformer", "PixArtTransformer2DModel")},
        "transformer is a PixArtTransformer2DModel",
    ),
    "HunyuanDiT": (
        "sd3",
        "model_index.json",
        {"transformer": of("transformer", "HunyuanDiT2DModel")},
        "transformer is a HunyuanDiT2DModel",
    ),
    "diffusers' Stable Diffusion 3": (  # whose pipeline cuts its CLIPs' states to the T5's width
        "sd3",
        "transformer/config.json",
        {"joint_attention_dim": 32},
        "takes at most 32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(described: Mapping[str, Path], tmp_path: Path, name: str) -> None:
    like, file, changes, message = REFUSED[name]
    model = changed(described[like], tmp_path / "model", file, changes)
    with pytest.raises(ExportError) as caught:
        open_backbone(model, ExportOptions())
    assert re.search(message, str(caught.value)), caught.value
    assert "expected" in str(caught.value) or "exactly" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_xl_turbo_differs_by_its_native_size(described: Mapping[str, Path], tmp_path: Path) -> None:
    changes = {"sample_size": 8}
    turbo = changed(described["xl"], tmp_path / "turbo", "unet/config.json", changes)
    assert open_backbone(turbo, ExportOptions()).image.native_size == 64


@pytest.mark.parametrize("save", [random_models.save_clip, random_models.save_dinov2])
def test_a_vision_transformer_in_half(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    job = proved(save(tmp_path / "model"), precision="fp16")
    assert max(row.error for row in job.rows) > 1e-5  # it was computed in half
