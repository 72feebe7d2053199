"""Stable Diffusion 3's shape: exported with proof, and its labels against diffusers' own pipeline
read naively."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import random_models
import torch
from agreement import shares

import mdrt
from mdrt.export.backbones import open_backbone
from mdrt.export.exporter import ExportReport, export
from mdrt.export.graphs import write_graph
from mdrt.export.options import ExportOptions
from mdrt.export.precision import lowered
from mdrt.export.proof import TOLERANCE, cases, prove
from mdrt.runtime.errors import ExportError, MdrtError

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/published

from published import seg4diff

NAMES = ("sky", "grass", "traffic light", "car")
BLOCK = 1
SIDE = 32


@pytest.fixture(scope="module")
def sd3(workspace: Path) -> Path:
    return random_models.save_sd3(workspace / "sd3", sample_size=SIDE // 2, pos_embed_max_size=12)


@pytest.fixture(scope="module")
def sd3_report(sd3: Path, workspace: Path) -> ExportReport:
    return export(sd3, workspace / "sd3.bundle", ExportOptions(blocks=(BLOCK,)))


def test_what_is_written(sd3_report: ExportReport) -> None:
    manifest = sd3_report.manifest
    assert all(row.passed for row in sd3_report.proof)
    assert manifest.network == "transformer.onnx"
    assert [text.pooled for text in manifest.texts] == [16, 24]
    assert manifest.noise is not None
    assert manifest.noise.law == "flow"
    assert not manifest.late  # words alone do not make a joint attention's keys
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(28)
    published = scheduler.timesteps[-8].item() / 1000
    assert abs(manifest.noise.levels[260] - published) < 1e-3
    assert abs(manifest.noise.levels[261] - published) > abs(manifest.noise.levels[260] - published)


def test_nothing_behind_the_last_block_is_in_the_graph(sd3_report: ExportReport) -> None:
    import onnx

    graph = onnx.load(sd3_report.path / "transformer.onnx", load_external_data=False).graph
    held = [value.name for value in graph.initializer]
    assert any("blocks.1." in name for name in held)
    assert not any("blocks.2." in name or "proj_out" in name for name in held)


@pytest.fixture(scope="module")
def pipeline(sd3: Path) -> Any:
    """diffusers' own."""
    return diffusers.StableDiffusion3Pipeline.from_pretrained(
        sd3, text_encoder_3=None, tokenizer_3=None
    )


def test_labels_are_a_naive_pipelines(pipeline: Any, sd3_report: ExportReport) -> None:
    """diffusers encodes the prompt (its missing T5 included) and noises the latent; attention is a
    whole matrix of hooked queries and keys."""
    segmenter = mdrt.Segmenter(sd3_report.path)
    equal = []
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        result = segmenter(image, NAMES, head="seg4diff")
        (prompt,) = result.record()["settings"]["prompts"]
        assert prompt == " and ".join(NAMES)
        P = naive_attention(pipeline, image, prompt, sd3_report)
        expected = seg4diff.labels(P, _grid(P), _own_tokens(pipeline, prompt), image.shape[:2])
        assert len(np.unique(expected)) > 1
        equal.append((result.labels == expected).mean())
    assert np.mean(equal) >= 0.999


def naive_attention(
    pipeline: Any, image: np.ndarray, prompt: str, report: ExportReport
) -> np.ndarray:
    """P (pixels, texts) of the block that was exported, of the bundle's own noise at t = 260."""
    assert report.manifest.noise is not None
    noise = torch.from_numpy(np.load(report.path / "noise.npy"))
    sigma = report.manifest.noise.levels[260]
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, _module: Any, _args: Any, output: torch.Tensor) -> None:
        seen[name] = output[0]

    attention = pipeline.transformer.transformer_blocks[BLOCK].attn
    names = ("to_q", "to_k", "add_q_proj", "add_k_proj")
    hooks = [getattr(attention, n).register_forward_hook(partial(keep, n)) for n in names]
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        mean, config = pipeline.vae.encode(pixels).latent_dist.mean, pipeline.vae.config
        z = (mean - config.shift_factor) * config.scaling_factor
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=77
        )
        sample = (1 - sigma) * z + sigma * noise
        pipeline.transformer(sample, states, pooled, torch.tensor([1000 * sigma]))
    for hook in hooks:
        hook.remove()
    heads = attention.heads
    q, k, of_q, of_k = (
        seen[n].double().unflatten(1, (heads, -1)).transpose(0, 1).numpy() for n in names
    )
    return seg4diff.image_to_text(
        np.concatenate([q, of_q], axis=1), np.concatenate([k, of_k], axis=1), q.shape[1]
    )


def _grid(P: np.ndarray) -> tuple[int, int]:
    side = int(len(P) ** 0.5)
    return side, side


def _own_tokens(pipeline: Any, prompt: str) -> list[range]:
    ids = pipeline.tokenizer(prompt).input_ids
    tokens = []
    for name in NAMES:
        own = pipeline.tokenizer(name).input_ids[1:-1]
        at = next(i for i in range(len(ids)) if ids[i : i + len(own)] == own)
        tokens.append(range(at, at + len(own)))
    return tokens


@pytest.mark.parametrize("threshold", [0.035, 0.01])
def test_segments_are_a_naive_pipelines(
    pipeline: Any, sd3_report: ExportReport, threshold: float
) -> None:
    segmenter = mdrt.Segmenter(sd3_report.path)
    words = segmenter.manifest.texts[0].tokens.max_length
    equal = []
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        found = segmenter(image, segments="auto", head="seg4diff-segments", kl_threshold=threshold)
        P = naive_attention(pipeline, image, "", sd3_report)
        expected = seg4diff.segments(P[:, :words], _grid(P), threshold, image.shape[:2])
        assert len(np.unique(expected)) > 1
        equal.append(min(covered(found.labels, expected), covered(expected, found.labels)))
    assert np.mean(equal) >= 0.999


def covered(parts: np.ndarray, whole: np.ndarray) -> float:
    """The share of pixels that lie in the one part of `whole` that theirs of `parts` mostly is."""
    most = [np.bincount(whole[parts == part]).max() for part in np.unique(parts)]
    return float(sum(most) / parts.size)


@pytest.mark.parametrize("size", [SIDE, SIDE // 2])
def test_parity_on_the_command_line(sd3: Path, sd3_report: ExportReport, size: int) -> None:
    """Every tensor at both sizes; MaskDiffusion's labels at the native one, to which smaller
    pictures are enlarged before the network sees them."""
    found = shares(sd3_report.path, sd3, size)
    assert found.keys() == {"paper", "released"}
    if size == SIDE:
        assert min(found.values()) >= 0.999


def test_other_heads(sd3_report: ExportReport, sd1_report: ExportReport) -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    segmenter = mdrt.Segmenter(sd3_report.path)
    assert segmenter(image, NAMES, head="maskdiffusion").labels.shape == (SIDE, SIDE)
    assert segmenter(image, segments=3, head="kmeans").labels.max() == 2
    with pytest.raises(MdrtError, match="goca"):
        segmenter(image, NAMES, head="goca")
    with pytest.raises(MdrtError, match=r"seg4diff.*joint attention"):
        mdrt.Segmenter(sd1_report.path)(image, NAMES, head="seg4diff")


def test_the_shape_of_35_in_half(tmp_path: Path) -> None:
    """Norms of queries and keys, a second attention of the picture alone, float16."""
    folder = random_models.save_sd3(
        tmp_path / "sd35", qk_norm="rms_norm", dual_attention_layers=[0, 1], num_layers=2
    )
    backbone = open_backbone(folder, ExportOptions())
    network = backbone.network()
    chosen = cases(backbone.image.size_multiple, backbone.image.native_size)
    (examples,) = backbone.examples(network, chosen).values()
    with lowered(network, "fp16") as dtype, backbone.graphs(network, dtype) as (make,):
        write_graph(make(), tmp_path / "transformer.onnx", 20)
    rows = prove(tmp_path / "transformer.onnx", examples, TOLERANCE["fp16"])
    assert len(rows) == 2
    assert all(row.passed for row in rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("transformer", "num_layers", 1), "block 1 does not exist"),
        (("transformer", "in_channels", 8), "takes 8 channels, the VAE gives 4"),
        (("transformer", "pooled_projection_dim", 41), "exactly 41"),
        (("transformer", "joint_attention_dim", 60), "takes at most 60"),
        (("transformer", "pos_embed_max_size", 4), "pos_embed_max_size is 4"),
        (("transformer", "attention_head_dim", "wide"), "configuration cannot be built"),
        (("scheduler", "_class_name", "DDIMScheduler"), "scheduler is a DDIMScheduler"),
    ],
)
def test_what_cannot_be_exported(
    sd3: Path, tmp_path: Path, change: tuple[str, str, Any], words: str
) -> None:
    folder = shutil.copytree(sd3, tmp_path / "sd3")
    part, key, value = change
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ExportError, match=words) as caught:
        open_backbone(folder, ExportOptions(blocks=(BLOCK,)))
    assert "\n" not in str(caught.value)


def test_a_text_encoder_is_missing(sd3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3, tmp_path / "sd3")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder_2"] = index["tokenizer_2"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match="has 1 CLIP text encoders"):
        open_backbone(folder, ExportOptions())
