"""Whole exports of SD 1.x-, SD 2.x- and oddly shaped pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mdrt.export.backbones import open_backbone
from mdrt.export.exporter import ExportReport
from mdrt.export.graphs import write_graph
from mdrt.export.options import ExportOptions
from mdrt.export.precision import lowered
from mdrt.export.proof import Example, growth
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle

SD1_ATTENTION = [  # the paper's six layers of an SD 1.x UNet: sizes 8 and 16 at 512²
    "mid_block.attentions.0",
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
]


def session(path: Path) -> Any:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def element_types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 256}


@pytest.mark.parametrize("report", ["sd1_report", "sd2_report", "odd_report"])
def test_bundle_is_whole_and_proved(report: str, request: pytest.FixtureRequest) -> None:
    made: ExportReport = request.getfixturevalue(report)
    loaded = load_bundle(made.path)
    assert loaded.manifest == made.manifest
    assert all(row.passed for row in made.proof)
    assert {row.graph for row in made.proof} == {
        "tokenizer/tokenizer.json",
        *graph_names(loaded.manifest),
    }
    keys = [row.tensor for row in made.proof if row.graph == "keys.onnx"]
    layers = loaded.manifest.attention
    assert keys == [a.keys for a in layers]
    values = [row.tensor for row in made.proof if row.graph == "values.onnx"]
    assert values == [a.values for a in layers]
    unet_rows = [row for row in made.proof if row.graph == "unet.onnx"]
    assert [row.tensor for row in unet_rows] == list(loaded.manifest.output_names)
    for row in unet_rows:  # two sizes × two batch sizes
        assert {shape[0] for shape in row.shapes} == {1, 2}
        assert len({shape[2:] for shape in row.shapes}) >= 2
    noise = loaded.noise()
    cells = loaded.manifest.image.native_size // loaded.manifest.latent.factor
    assert noise.shape == (loaded.manifest.latent.channels, cells, cells)
    assert not list(made.path.parent.glob(f".{made.path.name}*"))


def test_sd1_manifest(sd1_report: ExportReport) -> None:
    manifest = sd1_report.manifest
    assert manifest.model_id == "sd1"
    assert (manifest.latent.factor, manifest.latent.channels) == (8, 4)
    assert (manifest.image.size_multiple, manifest.image.native_size) == (64, 128)
    assert manifest.noise.prediction_type == "epsilon"
    assert len(manifest.noise.levels) == 1000
    assert manifest.noise.levels[0] == pytest.approx(1 - 0.00085, rel=1e-6)
    assert [(f.stride, f.channels) for f in manifest.features] == [(64, 128), (32, 96), (16, 64)]
    assert [a.layer.rsplit(".transformer_blocks")[0] for a in manifest.attention] == SD1_ATTENTION
    assert [a.stride for a in manifest.attention] == [64] + [32] * 5
    assert {a.heads for a in manifest.attention} == {8}
    assert manifest.texts[0].tokens.pad == manifest.texts[0].tokens.eos


def test_sd2_manifest(sd2_report: ExportReport) -> None:
    manifest = sd2_report.manifest
    assert manifest.noise.prediction_type == "v_prediction"
    assert manifest.recommended == {"maskdiffusion": {"pooling": "softmax", "timestep": 40}}
    assert manifest.classes == ("sky", "traffic light")
    assert manifest.synonyms == ("signal",)
    assert manifest.latent.scaling == 1.0  # a TAESD's
    assert manifest.texts[0].tokens.pad != manifest.texts[0].tokens.eos


def test_odd_manifest(odd_report: ExportReport) -> None:
    manifest = odd_report.manifest
    assert (manifest.latent.factor, manifest.image.size_multiple) == (2, 8)
    assert [(f.stride, f.channels) for f in manifest.features] == [(8, 112), (4, 80)]
    assert len(manifest.attention) == 14


def test_dead_layers_are_not_in_the_graph(sd1: Path, sd1_report: ExportReport) -> None:
    """An SD 1.x-shaped UNet loses its last up block and its output convolution."""
    model = onnx.load(sd1_report.path / "unet.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    assert set(stored) <= used
    assert not [n for n in stored if "up_blocks.3" in n or "conv_out" in n or "norm_out" in n]

    full = UNet2DConditionModel.from_pretrained(sd1 / "unet")
    convolutions = [m for m in full.modules() if isinstance(m, torch.nn.Conv2d)]
    dead = [*full.up_blocks[3].modules(), *full.up_blocks[2].upsamplers.modules(), full.conv_out]
    dead += [*full.up_blocks[2].resnets[2].modules(), *full.up_blocks[2].attentions[2].modules()]
    expected = len(convolutions) - sum(isinstance(m, torch.nn.Conv2d) for m in dead)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == expected

    wanted = full.conv_out.weight.shape
    assert all(tuple(tensor.dims) != tuple(wanted) for tensor in stored.values())
    live = sum(np.prod(tensor.dims, dtype=int) for tensor in stored.values())
    total = sum(parameter.numel() for parameter in full.parameters())
    gone = sum(p.numel() for p in [*full.up_blocks[3].parameters(), *full.conv_out.parameters()])
    assert live < total - gone


def test_vae_graph_has_no_decoder(sd1: Path, sd1_report: ExportReport) -> None:
    model = onnx.load(sd1_report.path / "vae_encoder.onnx")
    encoder = AutoencoderKL.from_pretrained(sd1 / "vae").encoder
    live = sum(np.prod(tensor.dims, dtype=int) for tensor in model.graph.initializer)
    assert live < 1.1 * sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize(("rows", "columns", "batch"), [(1, 1, 1), (5, 3, 3), (2, 7, 4)])
def test_unet_graph_is_dynamic(
    sd1: Path, sd1_report: ExportReport, rows: int, columns: int, batch: int
) -> None:
    """Sizes and batches that the proof did not see; logits against an explicit hook."""
    unet = UNet2DConditionModel.from_pretrained(sd1 / "unet").eval()
    random = torch.Generator().manual_seed(7)
    sample = torch.randn(batch, 4, 8 * rows, 8 * columns, generator=random)
    timestep = torch.randint(1000, (batch,), generator=random)
    states = torch.randn(batch, 77, 32, generator=random)
    seen: dict[str, torch.Tensor] = {}
    attn = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attn.to_q.register_forward_hook(lambda _m, _a, out: seen.update(q=out))
    attn.to_k.register_forward_hook(lambda _m, _a, out: seen.update(k=out))
    resnet = unet.up_blocks[2].resnets[2]
    resnet.register_forward_pre_hook(lambda _m, args: seen.update(f=args[0]))
    with torch.no_grad():
        unet(sample, timestep, states)

    inputs = {
        "sample": sample.numpy(),
        "timestep": timestep.numpy(),
        "encoder_hidden_states": states.numpy(),
    }
    names = ["features_s16", "logits_s64_0"]
    features, logits = session(sd1_report.path / "unet.onnx").run(names, inputs)
    np.testing.assert_allclose(features, seen["f"].numpy(), rtol=0, atol=1e-4)
    assert logits.shape == (batch, 8, rows * columns, 77)
    query, key = seen["q"].numpy(), seen["k"].numpy()
    for head in range(8):
        part = slice(8 * head, 8 * head + 8)
        own = query[..., part] @ key[..., part].transpose(0, 2, 1) / np.sqrt(8)
        np.testing.assert_allclose(logits[:, head], own, rtol=0, atol=1e-4)


def test_nothing_of_the_machine_is_in_the_graph(sd1_report: ExportReport) -> None:
    for name in ("vae_encoder.onnx", "text_encoder.onnx", "unet.onnx"):
        contents = (sd1_report.path / name).read_bytes()
        assert b"site-packages" not in contents
        assert b".py" not in contents


@pytest.mark.parametrize(
    ("report", "half"),
    [("sd2_report", onnx.TensorProto.FLOAT16), ("odd_report", onnx.TensorProto.BFLOAT16)],
)
def test_half_precision_keeps_float32_where_it_matters(
    report: str, half: int, request: pytest.FixtureRequest
) -> None:
    made: ExportReport = request.getfixturevalue(report)
    for name in ("vae_encoder.onnx", "text_encoder.onnx", "unet.onnx"):
        model = onnx.shape_inference.infer_shapes(onnx.load(made.path / name))
        assert half in element_types(model)
        rim = [*model.graph.output, *(i for i in model.graph.input if i.name != "timestep")]
        kinds = {value.type.tensor_type.elem_type for value in rim}
        assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
        types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
        types |= {v.name: v.type.tensor_type.elem_type for v in model.graph.output}
        for node in model.graph.node:
            if node.op_type in ("Softmax", "LayerNormalization", "InstanceNormalization"):
                assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.op_type


def test_bfloat16_proof_says_how_it_was_run(odd_report: ExportReport) -> None:
    assert all("bf16" in row.note for row in odd_report.proof if row.graph == "unet.onnx")


def test_weights_stored_as_float16(sd1: Path, sd1_report: ExportReport, tmp_path: Path) -> None:
    """The file halves, arithmetic stays float32, values move by one rounding, and no matrix is
    turned in every run."""
    source = sd1_report.path / "unet.onnx"
    backbone = open_backbone(sd1, ExportOptions())
    network = backbone.network()
    with (
        lowered(network, "fp32", "fp16") as dtype,
        backbone.graphs(network, dtype) as (make, *_),
    ):
        write_graph(make(), tmp_path / "unet.onnx", 20)
    wide, narrow = (folder / "unet.onnx.data" for folder in (source.parent, tmp_path))
    assert narrow.stat().st_size < 0.6 * wide.stat().st_size
    onnx.checker.check_model(str(tmp_path / "unet.onnx"))
    graph = onnx.load(tmp_path / "unet.onnx", load_external_data=False).graph
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast"}
    assert not any(n.op_type == "Transpose" and n.input[0] in casts for n in graph.node)
    random = np.random.default_rng(0)
    inputs = {
        "sample": random.standard_normal((1, 4, 8, 16), np.float32),
        "timestep": np.array([3]),
        "encoder_hidden_states": random.standard_normal((1, 77, 32), np.float32),
    }
    exact = session(source).run(None, inputs)
    rounded = session(tmp_path / "unet.onnx").run(None, inputs)
    for wanted, found in zip(exact, rounded, strict=True):
        assert found.dtype == np.float32
        assert 0 < np.abs(found - wanted).max() < 5e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("shape", "times"),
    [((2, 77), 1), ((1, 4, 128, 128), 1), ((1, 3, 512, 512), 1), ((2, 3, 1024, 1024), 4)],
)
def test_errors_may_grow_with_the_pixels_of_a_large_picture(
    shape: tuple[int, ...], times: float
) -> None:
    examples = [Example({"input": np.empty(size, np.uint8)}, {}) for size in (shape, (1, 3, 8, 16))]
    assert growth(examples) == times
