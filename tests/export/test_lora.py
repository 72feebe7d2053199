"""LoRA of every spelling is merged exactly: W + scale · alpha / rank · B A, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import original_layout as layout
import pytest
import torch
from random_models import load_part
from safetensors.torch import save_file

from mdrt.export.components import open_pipeline
from mdrt.export.exporter import export
from mdrt.runtime.errors import ExportError

RANK = 3
QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
OUT = "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0"
CONV = "mid_block.resnets.1.conv1"
POINT = "mid_block.attentions.0.proj_in"  # a 1×1 convolution
TEXT = "encoder.layers.1.self_attn.q_proj"


def factors(network: Any, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of a layer, shaped as trainers save them: of a convolution, A has its kernel."""
    weight = network.get_submodule(layer).weight
    generator = torch.Generator().manual_seed(len(layer))
    down = torch.randn(RANK, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator)
    return down, up


def expected(network: Any, layer: str, scale: float) -> torch.Tensor:
    """In float64, the convolution's product written out."""
    down, up = (factor.double() for factor in factors(network, layer))
    weight = network.get_submodule(layer).weight
    product = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(weight.shape)
    return weight.double() + scale * product


def kohya(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def of_repository(layer: str) -> str:
    """kohya's name for XL: after the original repositories' modules."""
    (name,) = layout.unet({f"{layer}.weight": torch.empty(0)}, 2)
    original = name.removeprefix("model.diffusion_model.").removesuffix(".weight")
    return "lora_unet_" + original.replace(".", "_")


def oldest(layer: str) -> str:
    block, name = layer.removesuffix(".0").rsplit(".", 1)
    return f"unet.{block}.processor.{name}_lora"


SPELLINGS = {
    "kohya": (kohya, ("lora_down.weight", "lora_up.weight"), (QUERY, OUT, CONV, POINT)),
    "kohya, original names": (
        of_repository,
        ("lora_down.weight", "lora_up.weight"),
        (QUERY, OUT, CONV, POINT),
    ),
    "diffusers": ("unet.{}".format, ("lora_A.weight", "lora_B.weight"), (QUERY, OUT, CONV, POINT)),
    "diffusers, adapter": (
        "unet.{}".format,
        ("lora_A.default.weight", "lora_B.default.weight"),
        (QUERY, CONV),
    ),
    "diffusers, old": ("unet.{}".format, ("lora.down.weight", "lora.up.weight"), (QUERY, OUT)),
    "diffusers, oldest": (oldest, ("down.weight", "up.weight"), (QUERY, OUT)),
    "peft": ("base_model.model.{}".format, ("lora_A.weight", "lora_B.weight"), (QUERY,)),
}


def written(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> str:
    told = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, told)
    return str(path)


@pytest.fixture(scope="module")
def network(sd1: Path) -> Any:
    return load_part(open_pipeline(sd1), "unet")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_every_spelling(
    sd1: Path, network: Any, tmp_path: Path, spelling: str, alpha: float | None
) -> None:
    name, roles, layers = SPELLINGS[spelling]
    tensors = {
        f"{name(layer)}.{role}": factor
        for layer in layers
        for role, factor in zip(roles, factors(network, layer), strict=True)
    }
    if alpha is not None:
        tensors |= {f"{name(layer)}.alpha": torch.tensor(alpha) for layer in layers}
    file = written(tmp_path / "a.safetensors", tensors)
    merged = load_part(open_pipeline(sd1, loras=[f"{file}:0.5"]), "unet")
    scale = 0.5 * (1 if alpha is None else alpha / RANK)
    for layer in layers:
        found = merged.get_submodule(layer).weight.double()
        torch.testing.assert_close(found, expected(network, layer, scale), rtol=1e-6, atol=1e-6)
    changed = {f"{layer}.weight" for layer in layers}
    before, after = network.state_dict(), merged.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == changed


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"unet.lora_alpha": 6, "unet.r": RANK}, 2.0),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / RANK**0.5),
        ({"unet.lora_alpha": 1, "unet.alpha_pattern": {"attn2.to_q": 6}}, 2.0),
        ({"text_encoder.lora_alpha": 6}, 1.0),
    ],
)
def test_alpha_in_the_header(
    sd1: Path, network: Any, tmp_path: Path, metadata: dict[str, Any], scale: float
) -> None:
    down, up = factors(network, QUERY)
    tensors = {f"unet.{QUERY}.lora_A.weight": down, f"unet.{QUERY}.lora_B.weight": up}
    file = written(tmp_path / "a.safetensors", tensors, **metadata)
    found = load_part(open_pipeline(sd1, loras=[file]), "unet").get_submodule(QUERY).weight.double()
    torch.testing.assert_close(found, expected(network, QUERY, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["lora_te_text_model_{}", "lora_te1_text_model_{}", "text_encoder.text_model.{}"]
)
def test_the_text_encoder(sd1: Path, tmp_path: Path, name: str) -> None:
    plain = load_part(open_pipeline(sd1), "text_encoder")
    down, up = factors(plain, TEXT)
    if name.startswith("lora_te"):
        layer, roles = name.format(TEXT.replace(".", "_")), ("lora_down", "lora_up")
    else:
        layer, roles = name.format(TEXT), ("lora_linear_layer.down", "lora_linear_layer.up")
    tensors = {f"{layer}.{r}.weight": t for r, t in zip(roles, (down, up), strict=True)}
    pipeline = open_pipeline(sd1, loras=[written(tmp_path / "a.safetensors", tensors)])
    found = load_part(pipeline, "text_encoder").get_submodule(TEXT).weight.double()
    torch.testing.assert_close(found, expected(plain, TEXT, 1), rtol=1e-6, atol=1e-6)


def test_two_files_add_up_and_name_the_bundle(sd1: Path, network: Any, tmp_path: Path) -> None:
    down, up = factors(network, QUERY)
    tensors = {f"{kohya(QUERY)}.lora_down.weight": down, f"{kohya(QUERY)}.lora_up.weight": up}
    files = [written(tmp_path / f"{name}.safetensors", tensors) for name in "ab"]
    pipeline = open_pipeline(sd1, loras=[files[0], f"{files[1]}:-0.25"])
    assert pipeline.model_id == "sd1+a+b:-0.25"
    found = load_part(pipeline, "unet").get_submodule(QUERY).weight.double()
    torch.testing.assert_close(found, expected(network, QUERY, 0.75), rtol=1e-6, atol=1e-6)


def test_a_checkpoints_file_stays_as_it_is(sd1: Path, network: Any, tmp_path: Path) -> None:
    """Its tensors are mapped into memory: what is merged must not be written through."""
    models = (
        network,
        load_part(open_pipeline(sd1), "vae"),
        load_part(open_pipeline(sd1), "text_encoder"),
    )
    single = tmp_path / "single.safetensors"
    save_file(layout.one_file(*models), single)
    before = single.read_bytes()
    down, up = factors(network, QUERY)
    tensors = {f"{kohya(QUERY)}.lora_down.weight": down, f"{kohya(QUERY)}.lora_up.weight": up}
    file = written(tmp_path / "a.safetensors", tensors)
    merged = load_part(open_pipeline(single, config=sd1, loras=[file]), "unet")
    found = merged.get_submodule(QUERY).weight.double()
    torch.testing.assert_close(found, expected(network, QUERY, 1), rtol=1e-6, atol=1e-6)
    assert single.read_bytes() == before


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {
                "lora_unet_nowhere.lora_down.weight": (3, 4),
                "lora_unet_nowhere.lora_up.weight": (4, 3),
            },
            "changes nowhere, which this unet does not have",
        ),
        (
            {f"{kohya(QUERY)}.lora_down.weight": (3, 9), f"{kohya(QUERY)}.lora_up.weight": (9, 3)},
            "was made for another model",
        ),
        ({f"{kohya(QUERY)}.lora_down.weight": (3, 9)}, "half a pair"),
        (
            {f"{kohya(QUERY)}.lora_down.weight": (3, 9), f"{kohya(QUERY)}.lora_up.weight": (9, 4)},
            "has ranks 3 and 4",
        ),
        ({f"{kohya(QUERY)}.hada_w1_a": (3, 9)}, "of another kind"),
        ({f"{kohya(QUERY)}.dora_scale": (3, 9)}, "of another kind"),
        ({"conv_in.weight": (3, 9)}, "is no LoRA"),
        (
            {"lora_te2_x.lora_down.weight": (3, 4), "lora_te2_x.lora_up.weight": (4, 3)},
            "changes the text_encoder_2, which",
        ),
    ],
)
def test_what_is_refused(
    sd1: Path, tmp_path: Path, tensors: dict[str, tuple[int, int]], words: str
) -> None:
    zeros = {name: torch.zeros(shape) for name, shape in tensors.items()}
    file = written(tmp_path / "a.safetensors", zeros)
    with pytest.raises(ExportError, match=words) as caught:
        load_part(open_pipeline(sd1, loras=[file]), "unet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.safetensors:0.5", "cannot be read"),
        (":0.5", "expected FILE or FILE:scale"),
        ("a:nan", "expected FILE or FILE:scale"),
    ],
)
def test_what_cannot_be_read(sd1: Path, text: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        open_pipeline(sd1, loras=[text])


def test_a_lora_alone_says_where_it_goes(tmp_path: Path) -> None:
    tensors = {f"{kohya(QUERY)}.lora_down.weight": torch.zeros(3, 9)}
    written(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ExportError, match="give it with --lora"):
        export(tmp_path / "a.safetensors", tmp_path / "bundle")
