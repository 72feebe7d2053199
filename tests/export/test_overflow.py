"""float16 ends at 65504: what goes beyond is found before it is traced, and named."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import random_models
import torch
from safetensors.torch import load_file, save_file

from mdrt.export import exporter, proof
from mdrt.export.backbones import open_backbone
from mdrt.export.options import ExportOptions
from mdrt.export.overflow import watched
from mdrt.runtime.errors import ExportError


def louder(pipeline: Path, part: str, weight: str, factor: float) -> None:
    """Multiply one weight of a part by a factor."""
    path = pipeline / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights[weight] *= factor
    save_file(weights, path, {"format": "pt"})


def save(folder: Path, cells: int) -> Path:
    unet = random_models.sd1_unet(layers_per_block=1, sample_size=cells)
    return random_models.save_pipeline(folder / "loud", unet)


def job(pipeline: Path, precision: str = "fp16") -> exporter._ExportJob:
    options = ExportOptions(precision=precision)
    folder = pipeline / "bundle"
    folder.mkdir()
    return exporter._ExportJob(open_backbone(pipeline, options), options, folder, print)


def test_a_vae_that_overflows_is_kept_in_float32(tmp_path: Path) -> None:
    pipeline = save(tmp_path, 72)
    louder(pipeline, "vae", "encoder.conv_in.weight", 1e7)
    own = job(pipeline)
    own._vae(own._manifest())
    (row,) = own.rows
    assert row.passed
    assert row.tolerance == proof.TOLERANCE["fp32"] * (576 / 512) ** 2
    assert "encoder.conv_in reaches" in row.note
    assert (1, 4, 72, 72) in row.shapes  # the native size, 576 pixels
    weights = onnx.load(own.directory / "vae_encoder.onnx").graph.initializer
    assert not any(w.data_type == onnx.TensorProto.FLOAT16 for w in weights)


def test_a_network_that_overflows_is_refused_by_its_layer(tmp_path: Path) -> None:
    pipeline = save(tmp_path, 8)
    louder(pipeline, "unet", "mid_block.resnets.0.conv1.weight", 1e7)
    own = job(pipeline)
    with pytest.raises(ExportError, match=r"mid_block\.resnets\.0\.conv1 reaches .* bf16"):
        own._network(own._manifest())
    assert not (own.directory / "unet.onnx").exists()


def test_only_float16_is_watched() -> None:
    """The first layer beyond the range is named, not the largest; others look at nothing."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, False), torch.nn.Linear(1, 1, False))
    for layer, weight in zip(network, (7e4, 10.0), strict=True):
        torch.nn.init.constant_(layer.weight, weight)
    for precision, named in (("fp16", "0 reaches 7e+04"), ("bf16", ""), ("fp32", "")):
        with watched(network, precision) as peaks:
            network(torch.ones(1, 1))
        assert peaks.beyond().startswith(named)
        assert bool(peaks.values) == bool(named)
    assert not any(layer._forward_hooks for layer in network)
