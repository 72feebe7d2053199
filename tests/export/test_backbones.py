"""UNets of every conditioning: exported and proved, and from picture to labels as PyTorch says."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_models
from agreement import shares
from click.testing import CliRunner

from mdrt import Segmenter
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.benchmarks.reference import Reference
from mdrt.cli import main
from mdrt.export.backbones import open_backbone
from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.runtime.bundle.plan import check_plans
from mdrt.runtime.errors import ExportError
from mdrt.runtime.heads.maskdiffusion import MaskDiffusionOptions

NAMES = ("sky", "grass", "tree", "car")

EDM = {  # playground-v2.5-1024px-aesthetic's
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
}
STANDARDISED = {  # its VAE's
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    "scaling_factor": 0.5,
}


@pytest.fixture(scope="module", params=["xl", "playground", "inpainting"])
def model(request: pytest.FixtureRequest, workspace: Path) -> tuple[str, Path, ExportReport]:
    """A kind, its pipeline, and its bundle."""
    pipeline = workspace / request.param
    if request.param == "xl":
        random_models.save_xl(pipeline)
    elif request.param == "playground":
        random_models.save_xl(pipeline, scheduler=EDM, vae=STANDARDISED)
    else:
        unet = random_models.sd1_unet(in_channels=9, layers_per_block=1)
        random_models.save_pipeline(pipeline, unet)
    return request.param, pipeline, export(pipeline, workspace / f"{request.param}.bundle")


def test_what_its_manifest_says(model: tuple[str, Path, ExportReport]) -> None:
    kind, _, report = model
    manifest = report.manifest
    assert all(row.passed for row in report.proof)
    assert {"keys.onnx", "values.onnx"} <= manifest.files.keys()
    if kind == "inpainting":
        assert manifest.latent.channels == 4
        assert manifest.inputs("unet.onnx", 1, 64, 128)["sample"] == (1, 4, 8, 16)
        return
    assert [(text.hidden, text.pooled) for text in manifest.texts] == [(32, 0), (64, 48)]
    assert manifest.texts[0].tokens.pad != manifest.texts[1].tokens.pad
    assert [*manifest.inputs("unet.onnx", 1, 64, 64)] == [
        "sample",
        "timestep",
        "encoder_hidden_states",
        "encoder_hidden_states_2",
        "pooled_2",
    ]
    assert (manifest.image.size_multiple, manifest.image.native_size) == (32, 128)
    assert [f.stride for f in manifest.features] == [32, 16]  # it has no 64
    assert {a.stride for a in manifest.attention} == {32}
    if kind == "playground":
        assert manifest.latent.scaling == 1.0  # 0.5 over EDM's deviation of 0.5
        assert manifest.noise.levels[0] == pytest.approx(1, abs=1e-4)
        assert manifest.noise.levels[-1] == pytest.approx(0.25 / 6400.25)


def test_every_graph_becomes_an_engine(
    model: tuple[str, Path, ExportReport], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    _, _, report = model
    bundle = shutil.copytree(report.path, tmp_path / "bundle")
    done = CliRunner().invoke(main, ["build", str(bundle), "--library", "tensorrt-rtx"])
    assert done.exit_code == 0, done.output
    records = check_plans(bundle, report.manifest, "unet.plan")
    assert {"vae_encoder.onnx", "unet.onnx", "keys.onnx", "values.onnx"} <= records.keys()
    inputs = report.manifest.inputs("unet.onnx", 1, 128, 128)
    assert {name: shapes.min for name, shapes in records["unet.onnx"].shapes.items()} == inputs


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("timestep", [0, 300])
def test_labels_are_those_of_pytorch(
    model: tuple[str, Path, ExportReport], mode: str, timestep: int
) -> None:
    """A naive path of diffusers' own modules, with its schedulers' own preconditioning."""
    _, pipeline, report = model
    manifest = report.manifest
    strides = (
        [f.stride for f in manifest.features],
        dict.fromkeys(a.stride for a in manifest.attention),
    )
    reference = Reference(pipeline, *map(tuple, strides))
    image = render(11, size=128).image
    with Segmenter(report.path) as segmenter:
        noise = segmenter.bundle.noise()
        options = vars(MaskDiffusionOptions(mode=mode, timestep=timestep))
        ours = segmenter(image, NAMES, **options).labels
    theirs = reference.segment(image, NAMES, noise, mode=mode, timestep=timestep)
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() >= 0.999


@pytest.mark.parametrize("size", [128, 64])
def test_parity_on_the_command_line(model: tuple[str, Path, ExportReport], size: int) -> None:
    """Every tensor at both sizes; labels at the native one, to which smaller pictures are enlarged
    before the network sees them."""
    kind, pipeline, report = model
    if kind != "xl":
        pytest.skip("one of them is enough: it costs seconds")
    found = shares(report.path, pipeline, size)
    assert found.keys() == {"paper", "released"}
    if size == report.manifest.image.native_size:
        assert min(found.values()) >= 0.999


def test_late_words_need_no_values(model: tuple[str, Path, ExportReport]) -> None:
    """Words that come late open the graph of keys alone, at a size that is not square."""
    with Segmenter(model[2].path) as segmenter, warnings.catch_warnings():
        image = render(5, size=256).image[:192]
        look = segmenter.look(image)
        late = look.segment(NAMES, words="late")
        assert late.labels.shape == (192, 256)
        opened = [session.path.name for session in segmenter.network.sessions]
    assert "keys.onnx" in opened
    assert "values.onnx" not in opened


def refusal(pipeline: Path, **options: Any) -> str:
    with pytest.raises(ExportError) as caught:
        open_backbone(pipeline, ExportOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection_class_embeddings_input_dim": 48 + 5 * 8}, "aesthetic score"),
        ({"in_channels": 5}, "depth"),
        ({"time_cond_proj_dim": 32}, "guidance scale"),
        ({"addition_embed_type": "image", "encoder_hid_dim": 8}, "encoder_hid_dim = 8"),
        ({"cross_attention_dim": 64}, "32 \\+ 64 wide"),
    ],
)
def test_what_cannot_be_given_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    pipeline = random_models.save_xl(tmp_path / "xl")
    path = pipeline / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert re.search(message, refusal(pipeline))


def test_a_flow_model_of_this_shape_is_refused(tmp_path: Path) -> None:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    pipeline = random_models.save_xl(tmp_path / "xl", scheduler=flow)
    assert "FlowMatchEulerDiscreteScheduler" in refusal(pipeline)
