"""What cannot be exported says so in one line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import diffusers
import pytest
import random_models
from click.testing import CliRunner

from mdrt.cli import main
from mdrt.export import proof
from mdrt.export.components import open_pipeline
from mdrt.export.exporter import ProofError, export
from mdrt.export.options import ExportOptions
from mdrt.export.staging import staged
from mdrt.runtime.errors import ExportError


def message(model: str | Path, output: Path, **options: Any) -> str:
    """The one-line error of an export, which must leave nothing at or beside `output`."""
    with pytest.raises(ExportError) as caught:
        export(model, output, ExportOptions(**options))
    assert "\n" not in str(caught.value)
    assert list(output.parent.iterdir()) == []
    return str(caught.value)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "bundle"


@pytest.fixture
def broken(sd1: Path, tmp_path: Path) -> Path:
    """A copy of a pipeline to break."""
    return Path(shutil.copytree(sd1, tmp_path / "broken"))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_model_is_nowhere(tmp_path: Path, output: Path) -> None:
    assert "does not exist" in message(tmp_path / "absent", output)


def test_hub_id_without_network(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    text = message("some/model", output)
    assert "some/model" in text
    assert "network" in text


def test_directory_is_no_pipeline(tmp_path: Path, output: Path) -> None:
    assert "model_index.json" in message(tmp_path, output)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "UNet2DModel"),
        ("vae", "VQModel"),
        ("text_encoder", "T5EncoderModel"),
        ("tokenizer", "T5Tokenizer"),
    ],
)
def test_component_of_another_kind(broken: Path, output: Path, part: str, name: str) -> None:
    change_json(broken / "model_index.json", **{part: ["transformers", name]})
    text = message(broken, output)
    assert part in text
    assert name in text


def test_component_is_missing(broken: Path, output: Path) -> None:
    change_json(broken / "model_index.json", unet=None)
    assert "no unet" in message(broken, output)


@pytest.mark.parametrize("kind", ["feature", "attention"])
def test_stride_with_nothing_at_it(sd1: Path, output: Path, kind: str) -> None:
    text = message(sd1, output, **{f"{kind}_strides": (64, 48)})
    assert f"{kind} stride 48" in text
    assert "feature strides 64,32,16,8" in text  # both: the next try should be the last
    assert "attention strides 64,32,16,8" in text


def test_no_attention_at_the_deepest_down_block_alone(sd1: Path, output: Path) -> None:
    assert "repeat" in message(sd1, output, feature_strides=(64, 64))
    assert "no attention strides" in message(sd1, output, attention_strides=())


def test_unet_that_wants_more_than_text(broken: Path, output: Path) -> None:
    change_json(broken / "unet" / "config.json", num_class_embeds=3)
    assert "num_class_embeds" in message(broken, output)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"dual_cross_attention": True}, "extra conditioning (dual_cross_attention"),
        ("unet", {"encoder_hid_dim": 8}, "encoder_hid_dim = 8"),
        ("unet", {"cross_attention_dim": [32, 32]}, "UNet's configuration cannot be built"),
        ("unet", {"cross_attention_dim": "wide"}, "UNet's configuration cannot be built"),
        ("unet", {"norm_num_groups": 0}, "UNet's configuration cannot be built"),
        ("unet", {"block_out_channels": []}, "UNet's configuration cannot be built"),
        ("unet", {"resnet_pre_norm": {}, "act_fn": 3}, "UNet's configuration cannot be built"),
        ("unet", {"sample_size": "64"}, "sample_size is '64'"),
        ("unet", {"sample_size": [64, 0]}, "sample_size is [64, 0]"),
        ("unet", {"sample_size": 10**6}, "stands for pictures of 8000000 pixels"),
        ("vae", {"scaling_factor": None}, "VAE's configuration cannot be built"),
        ("vae", {"scaling_factor": 0.0}, "scaling_factor is 0.0"),
        ("vae", {"block_out_channels": None}, "VAE's configuration cannot be built"),
        ("vae", {"in_channels": 4}, "VAE's configuration cannot be built"),
        ("text_encoder", {"hidden_size": 48}, "text encoder is 48 wide"),
        ("text_encoder", {"vocab_size": 100}, "the text encoder embeds 100"),
        ("text_encoder", {"max_position_embeddings": 2}, "hold 2 tokens"),
        ("text_encoder", {"hidden_size": "wide"}, "no CLIP text encoder's configuration"),
        ("text_encoder", {"intermediate_size": 48}, "cannot be loaded as CLIPTextModel"),
    ],
)
def test_configurations_that_fail_in_a_library(
    broken: Path, output: Path, part: str, changes: dict[str, Any], words: str
) -> None:
    """Whatever diffusers, transformers or torch raises, it is one line."""
    change_json(broken / part / "config.json", **changes)
    assert words in message(broken, output)


def test_a_configuration_without_what_has_a_default(broken: Path, output: Path) -> None:
    path = broken / "unet" / "config.json"
    values = json.loads(path.read_text())
    del values["cross_attention_dim"]
    path.write_text(json.dumps(values))
    assert "cross-attention takes 1280" in message(broken, output)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("text_encoder", {"num_hidden_layers": 3}, "lacks 16 of CLIPTextModel's weights"),
        ("unet", {"transformer_layers_per_block": 2}, "of UNet2DConditionModel's weights"),
        ("vae", {"layers_per_block": 2}, "of AutoencoderKL's weights"),
    ],
)
def test_weights_that_are_missing(
    broken: Path, part: str, changes: dict[str, Any], words: str
) -> None:
    """The libraries make them up at random, and warn where nobody hears."""
    change_json(broken / part / "config.json", **changes)
    with pytest.raises(ExportError, match=words):
        random_models.load_part(open_pipeline(broken), part)


def test_no_tokenizer(broken: Path, output: Path) -> None:
    """transformers makes a vocabulary of two tokens of an empty folder, and says nothing."""
    shutil.rmtree(broken / "tokenizer")
    assert "tokenizer has no vocabulary; expected tokenizer.json" in message(broken, output)
    (broken / "tokenizer").mkdir()
    assert "tokenizer has no vocabulary; expected tokenizer.json" in message(broken, output)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer(broken: Path, output: Path, name: str) -> None:
    (broken / "tokenizer" / name).unlink()
    assert "expected tokenizer.json, or vocab.json and merges.txt" in message(broken, output)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", "{", "cannot be loaded as a CLIP tokenizer"),
        ("vocab.json", "[]", "cannot be loaded as a CLIP tokenizer"),
        ("vocab.json", "{}", "as"),
        ("merges.txt", "#version: 0.2\n", "words of its own vocabulary"),
        ("merges.txt", "\x00\xff", "cannot be loaded as a CLIP tokenizer"),
        ("tokenizer.json", "{", "cannot be loaded as a CLIP tokenizer"),
    ],
)
def test_a_damaged_tokenizer(
    broken: Path, output: Path, name: str, content: str, words: str
) -> None:
    (broken / "tokenizer" / name).write_text(content)
    assert words in message(broken, output)


def test_unet_of_other_channels(broken: Path, output: Path) -> None:
    change_json(broken / "unet" / "config.json", in_channels=6)
    assert "6 channels" in message(broken, output)


def test_vae_is_nowhere(sd1: Path, tmp_path: Path, output: Path) -> None:
    text = message(sd1, output, vae=str(tmp_path / "nowhere"))
    assert f"VAE {tmp_path / 'nowhere'} does not exist" in text
    assert "nowhere/vae" not in text
    (tmp_path / "file").write_text("")
    assert "is no safetensors file" in message(sd1, output, vae=str(tmp_path / "file"))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_libraries_say_nothing(
    broken: Path, output: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration key that diffusers does not know is no matter of the user's."""
    change_json(broken / part / "config.json", a_key_of_the_future=[1])
    diffusers.utils.logging.add_handler(caplog.handler)
    try:
        message(broken, output, feature_strides=(48,))
    finally:
        diffusers.utils.logging.remove_handler(caplog.handler)
    assert caplog.messages == []


def test_unknown_noise_schedule(broken: Path, output: Path) -> None:
    change_json(broken / "scheduler" / "scheduler_config.json", beta_schedule="wavy")
    assert "wavy" in message(broken, output)


@pytest.mark.parametrize("kind", ["flow_prediction", None])
def test_prediction_of_another_kind(broken: Path, output: Path, kind: str | None) -> None:
    change_json(broken / "scheduler" / "scheduler_config.json", prediction_type=kind)
    text = message(broken, output)
    assert f"prediction_type is {kind!r}" in text
    assert "epsilon, v_prediction, sample" in text


@pytest.mark.parametrize("head", ["maskdiffusion", "spectral"])
def test_a_recommended_timestep_beyond_the_schedule(sd1: Path, output: Path, head: str) -> None:
    text = message(sd1, output, recommended={head: {"timestep": 1000}})
    assert f"{head}: timestep is 1000, expected 0 to 999" in text


def test_recommended_strides_that_are_not_exported(sd1: Path, output: Path) -> None:
    text = message(sd1, output, recommended={"kmeans": {"feature_strides": (32, 8)}})
    assert "kmeans: feature_strides holds 8, and only 64, 32, 16 are exported" in text


def test_corrupt_weights(broken: Path, output: Path) -> None:
    for file in (broken / "vae").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    assert "vae" in message(broken, output)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int8"},
        {"weights": "fp8"},
        {"weights": "fp16", "precision": "bf16"},
        {"opset": 11},
        {"classes": (("sky",), ("",))},
        {"classes": (("sky",), ("cloud", "sky"))},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        ExportOptions(**options)


def test_failed_proof_leaves_no_bundle(
    sd1: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(proof.TOLERANCE, "fp32", 0.0)
    with pytest.raises(ProofError) as caught:
        export(sd1, output)
    assert [row.tensor for row in caught.value.rows] == ["input_ids", "encoder_hidden_states"]
    assert list(output.parent.iterdir()) == []


def test_interrupt_leaves_no_bundle(sd1: Path, output: Path) -> None:
    def interrupt(stage: str) -> None:
        if stage.startswith("tracing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(sd1, output, progress=interrupt)
    assert list(output.parent.iterdir()) == []


def test_terminate_leaves_no_bundle(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(*_arguments: Any, **_options: Any) -> None:
        assert len(list(output.parent.iterdir())) == 1  # the folder that is written aside
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("mdrt.export.exporter.open_backbone", terminate)
    result = CliRunner().invoke(main, ["export", "some/model", "-o", str(output)])
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.stderr.splitlines()[-1] == "Error: terminated"
    assert list(output.parent.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_existing_target_is_kept(sd1: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    with pytest.raises(ExportError, match="to be overwritten"):
        export(sd1, target)
    assert (target / "manifest.json").read_text() == "old"


def test_overwrite_replaces_a_bundle_only_when_done(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    with pytest.raises(ZeroDivisionError), staged(target, overwrite=True) as directory:
        (directory / "manifest.json").write_text(f"{1 / 0}")
    assert (target / "manifest.json").read_text() == "old"
    with staged(target, overwrite=True) as directory:
        (directory / "manifest.json").write_text("new")
    assert (target / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_overwrite_spares_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ExportError, match="no bundle"), staged(tmp_path / "photos", True):
        pass
    assert (tmp_path / "photos").is_dir()


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"), staged(tmp_path / "file/b", False):
        pass
