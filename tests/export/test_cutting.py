"""Cuts of an exported UNet, beside PyTorch and beside the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import random_models
import torch
from diffusers import UNet2DConditionModel

import mdrt
from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.runtime.bundle.cuts import cuts
from mdrt.runtime.errors import MdrtError
from mdrt.runtime.sessions.ort import OrtSession

FEEDS = {
    "sample": np.random.default_rng(0).standard_normal((2, 4, 16, 8), dtype=np.float32),
    "timestep": np.array([1, 900]),
    "encoder_hidden_states": np.random.default_rng(1).standard_normal(
        (2, random_models.MAX_LENGTH, random_models.HIDDEN), dtype=np.float32
    ),
}


@pytest.fixture(scope="module")
def fine(workspace: Path) -> ExportReport:
    """SD 1.x-shaped, one layer a block, with attention layers that lie beyond its features."""
    pipeline = random_models.save_pipeline(
        workspace / "fine", random_models.sd1_unet(layers_per_block=1)
    )
    options = ExportOptions(feature_strides=(64, 32), attention_strides=(64, 32, 8))
    return export(pipeline, workspace / "fine.bundle", options)


def test_the_encoder_gives_what_its_last_self_attention_does(fine: ExportReport) -> None:
    """Beside a hook on the plain model, in DiffCut's place."""
    unet = UNet2DConditionModel.from_pretrained(fine.path.parent / "fine" / "unet").eval()
    layer = unet.down_blocks[-2].attentions[-1].transformer_blocks[-1].attn1
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        unet(*map(torch.from_numpy, FEEDS.values()))
    expected = seen[0].numpy().transpose(0, 2, 1).reshape(2, 64, 4, 2)  # row by row
    (output,) = fine.manifest.encoder
    assert (output.name, output.stride, output.channels) == ("encoder_s32", 32, 64)
    for graph in ("unet.onnx", "unet.encoder.onnx"):
        found = OrtSession(fine.path / graph).infer(FEEDS)[output.name]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_cut_gives_what_the_whole_gives(fine: ExportReport) -> None:
    whole = OrtSession(fine.path / "unet.onnx").infer(FEEDS)
    for cut in cuts(fine.manifest)[:-1]:
        found = OrtSession(fine.path / cut.graph).infer(FEEDS)
        assert tuple(found) == cut.outputs
        for name, values in found.items():
            np.testing.assert_allclose(
                values, whole[name], atol=1e-6 * np.abs(whole[name]).max(), err_msg=name
            )
            if name.startswith(("encoder", "features")):
                np.testing.assert_array_equal(values, whole[name])


def test_every_cut_is_proved_and_listed_over_one_file_of_weights(fine: ExportReport) -> None:
    for cut in cuts(fine.manifest):
        rows = [row for row in fine.proof if row.graph == cut.graph]
        assert [row.tensor for row in rows] == list(cut.outputs)
        assert all(row.passed for row in rows)
        assert cut.graph in fine.manifest.files
    assert [name for name in fine.manifest.files if name.endswith(".data")] == ["unet.onnx.data"]


def test_a_head_that_leaves_fine_layers_alone_stops_before_them(fine: ExportReport) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    segmenter = mdrt.Segmenter(fine.path)

    def graphs() -> list[str]:
        return [session.path.name for session in segmenter.network.passes.sessions]

    look = segmenter.look(image)
    for words in ("driven", "late"):
        short = look.segment(["sky", "tree"], attention_strides=(64, 32), words=words)
        assert graphs() == ["unet.onnx", "unet.features.onnx"]
        long = segmenter(image, ["sky", "tree"], attention_strides=(64, 32, 8), words=words)
        assert "unet" in long.timings
        whole = look.segment(["sky", "tree"], words=words)
        assert "unet" in whole.timings
        np.testing.assert_array_equal(whole.labels, long.labels)
        again = look.segment(["sky", "tree"], "attention", attention_strides=(32,), words=words)
        assert "unet" not in again.timings  # what went further serves it
        assert np.mean(short.labels != 255) == 1


def test_a_model_without_attention_in_its_down_blocks(odd_report: ExportReport) -> None:
    assert odd_report.manifest.encoder == ()
    assert [cut.name for cut in cuts(odd_report.manifest)] == ["whole"]


def test_such_a_model_says_so(sd1_report: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = mdrt.Segmenter(sd1_report.path)
    object.__setattr__(segmenter.manifest, "encoder", ())
    with pytest.raises(MdrtError, match="no attention in its down blocks; expected 'decoder'"):
        segmenter(np.zeros((64, 64, 3), np.uint8), segments=2, features="encoder")
