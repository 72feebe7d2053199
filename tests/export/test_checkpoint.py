"""One .safetensors file: which model it is, and that its weights are those of the directory."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import original_layout as layout
import pytest
import random_models
import torch
import transformers
from random_models import load_part
from safetensors.torch import load_file, save_file

import mdrt
from mdrt.export import hub
from mdrt.export.checkpoint import CONFIGS, Checkpoint
from mdrt.export.components import open_pipeline
from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.export.precision import lowered
from mdrt.runtime.errors import ExportError

PARTS = ("unet", "vae", "text_encoder")


def save(folder: Path, path: Path, **options: Any) -> Path:
    source = open_pipeline(folder)
    weights = layout.one_file(*(load_part(source, part) for part in PARTS), **options)
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def single(sd1: Path, workspace: Path) -> Path:
    return save(sd1, workspace / "single.safetensors")


def same(one: Any, two: Any) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("part", PARTS)
def test_every_weight_is_the_directorys(sd1: Path, single: Path, part: str) -> None:
    one, two = open_pipeline(single, config=sd1), open_pipeline(sd1)
    assert same(load_part(one, part), load_part(two, part))


def test_a_text_encoder_of_openclip(sd1: Path, tmp_path: Path) -> None:
    path = save(sd1, tmp_path / "open.safetensors", of_text=layout.openclip)
    one, two = open_pipeline(path, config=sd1), open_pipeline(sd1)
    assert same(load_part(one, "text_encoder"), load_part(two, "text_encoder"))


def test_xl_in_one_file(tmp_path: Path) -> None:
    """Two text encoders, the second OpenCLIP's with a projection of its own."""
    folder = random_models.save_xl(tmp_path / "xl")
    source = open_pipeline(folder)
    weights = layout.one_file(
        *(load_part(source, part) for part in PARTS),
        of_text=partial(layout.clip, prefix="conditioner.embedders.0.transformer."),
    )
    second = source.text_encoder(1)
    weights |= layout.openclip(second.state_dict(), "conditioner.embedders.1.model.")
    save_file(weights, tmp_path / "xl.safetensors")
    single = open_pipeline(tmp_path / "xl.safetensors", config=folder)
    for part in PARTS:
        assert same(load_part(single, part), load_part(source, part))
    assert same(single.text_encoder(1), second)


def test_half_weights_are_widened(sd1: Path, single: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in load_file(single).items()}
    save_file(half, tmp_path / "half.safetensors")
    network = load_part(open_pipeline(tmp_path / "half.safetensors", config=sd1), "unet")
    assert {p.dtype for p in network.parameters() if p.ndim > 1 and p.numel() > 255} == {
        torch.float16
    }
    assert network.conv_in.weight.dtype is torch.float32
    with lowered(network, "fp32"):
        assert same(network, load_part(open_pipeline(sd1), "unet").half().float())


def test_the_bundle_is_the_directorys(
    sd1: Path, sd1_report: ExportReport, single: Path, tmp_path: Path
) -> None:
    """Every graph byte for byte, and the labels of a picture."""
    report = export(single, tmp_path / "bundle", ExportOptions(config=sd1))
    assert report.manifest.model_id == "single"
    assert report.manifest.files == sd1_report.manifest.files
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    names = ["sky", "grass", "traffic light"]
    labels = [mdrt.Segmenter(r.path)(image, names).labels for r in (report, sd1_report)]
    assert len(np.unique(labels[0])) > 1
    np.testing.assert_array_equal(*labels)


def shapes(family: str, channels: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a real checkpoint of a family."""
    folder = CONFIGS / family

    def model(part: str) -> Any:
        if part.startswith("text"):
            kind = json.loads((folder / part / "config.json").read_text())["architectures"][0]
            config = transformers.CLIPTextConfig.from_pretrained(folder / part)
            return getattr(transformers, kind)(config)
        kind = diffusers.AutoencoderKL if part == "vae" else diffusers.UNet2DConditionModel
        config = kind.load_config(folder / part)
        return kind.from_config(config | ({"in_channels": channels} if part == "unet" else {}))

    with torch.device("meta"):
        of_text = layout.openclip if family == "sd2" else layout.clip
        found = layout.one_file(*(model(part) for part in PARTS), of_text=of_text)
        if family == "sdxl":
            found |= layout.openclip(
                model("text_encoder_2").state_dict(), "conditioner.embedders.1.model."
            )
    return {name: tuple(tensor.shape) for name, tensor in found.items()}


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("channels", [4, 9])
def test_real_checkpoints_are_recognised(family: str, channels: int) -> None:
    checkpoint = Checkpoint(Path("m.safetensors"), shapes(family, channels), {})
    assert checkpoint.family() == family
    assert checkpoint.config("unet") == {"in_channels": channels}
    assert all(map(checkpoint.holds, PARTS))


def test_xl_is_recognised() -> None:
    checkpoint = Checkpoint(Path("m.safetensors"), shapes("sdxl"), {})
    assert checkpoint.family() == "sdxl"
    assert checkpoint.holds("text_encoder_2")


def test_the_header_may_tell_the_size() -> None:
    told = {"modelspec.resolution": "512x512"}
    first = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
    assert Checkpoint(Path("m"), first, told).config("unet")["sample_size"] == 64
    assert "sample_size" not in Checkpoint(Path("m"), first, {}).config("unet")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "is a LoRA; give it with"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "is a LoRA; give it with"),
        ("encoder.down.0.block.0.conv1.weight", "is a VAE alone; give it with --vae"),
        ("control_model.input_hint_block.0.weight", "is a ControlNet"),
        ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "is a Flux"),
        ("down_blocks.0.resnets.0.conv1.weight", "one part of a diffusers pipeline"),
        ("blocks.0.weight", "holds no UNet"),
        ("model.diffusion_model.input_blocks.0.0.weight", "begins with 2 channels"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, key: str, words: str) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / "file.safetensors")
    with pytest.raises(ExportError, match=words) as caught:
        open_pipeline(tmp_path / "file.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layers_per_block": 1}, "does not hold the unet that its configuration describes"),
        ({"transformer_layers_per_block": 2}, "of UNet2DConditionModel's weights"),
        ({"cross_attention_dim": 48}, "size mismatch"),
    ],
)
def test_a_configuration_of_another_model(
    sd1: Path, single: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = shutil.copytree(sd1, tmp_path / "config")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ExportError, match=words) as caught:
        load_part(open_pipeline(single, config=folder), "unet")
    assert "\n" not in str(caught.value)


def test_more_layers_than_the_configuration_has(sd1: Path, single: Path, tmp_path: Path) -> None:
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks"
    more = {f"{block}.1.attn1.to_q.weight": torch.zeros(32, 32)}
    save_file(load_file(single) | more, tmp_path / "more.safetensors")
    with pytest.raises(ExportError, match="holds 1 weights of the unet that its configuration"):
        load_part(open_pipeline(tmp_path / "more.safetensors", config=sd1), "unet")


def test_a_part_that_is_missing(sd1: Path, single: Path, tmp_path: Path) -> None:
    found = load_file(single)
    pruned = {name: found[name] for name in found if not name.startswith("first_stage_model.")}
    save_file(pruned, tmp_path / "pruned.safetensors")
    with pytest.raises(ExportError, match=r"pruned.safetensors has no vae"):
        open_pipeline(tmp_path / "pruned.safetensors", config=sd1)
    assert open_pipeline(tmp_path / "pruned.safetensors", sd1, config=sd1).vae_path == sd1 / "vae"


def test_a_vae_in_one_file(sd1: Path, single: Path, tmp_path: Path) -> None:
    prefix = "first_stage_model."
    alone = {
        n.removeprefix(prefix): t + 1 for n, t in load_file(single).items() if n.startswith(prefix)
    }
    save_file(alone, tmp_path / "vae.safetensors")
    one, two = open_pipeline(sd1, str(tmp_path / "vae.safetensors")), open_pipeline(sd1)
    assert torch.equal(
        load_part(one, "vae").quant_conv.weight, load_part(two, "vae").quant_conv.weight + 1
    )
    assert same(load_part(one, "unet"), load_part(two, "unet"))


def test_the_vocabulary_comes_from_elsewhere(
    sd1: Path, sd2: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Special tokens are the model's own: SD 2.x pads with "!"."""
    config = shutil.copytree(sd2, tmp_path / "config")
    for name in ("vocab.json", "merges.txt"):
        (config / "tokenizer" / name).unlink()
    given = open_pipeline(single, config=config, tokenizer=sd1 / "tokenizer").tokenizer(0)
    assert given.pad_token == "!"
    assert given.model_max_length == 77
    monkeypatch.setattr(
        hub.huggingface_hub, "snapshot_download", lambda *_, **__: sd1 / "tokenizer"
    )
    assert open_pipeline(single, config=config).tokenizer(0).pad_token == "!"

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ExportError, match=r"no tokenizer: give --tokenizer.*no route") as caught:
        open_pipeline(single, config=config).tokenizer(0)
    assert "\n" not in str(caught.value)
