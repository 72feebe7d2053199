"""What `mdrt triton` writes, without a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mdrt.cli import main
from mdrt.runtime.bundle import contract
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.triton.config import BATCH, Word, pbtxt


def triton(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["triton", *map(str, arguments)])


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_one_model_with_its_networks_inside(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    outcome = triton(
        "embedded", repository, "--classes", "sky, 'sea\" \\, été", "--head", "attention"
    )
    assert outcome.exit_code == 0, outcome.output
    written = files(repository)
    assert {"mdrt/config.pbtxt", "mdrt/1/model.py", "mdrt/warmup/image"} <= written
    assert not any(name.startswith("mdrt_") for name in written)
    bundle = load_bundle(repository / "mdrt" / "1" / "bundle")  # every hash is checked
    assert bundle.manifest.sha256 == load_bundle(EMBEDDED).manifest.sha256
    length = int.from_bytes((repository / "mdrt/warmup/image").read_bytes()[:4], "little")
    assert length == (repository / "mdrt/warmup/image").stat().st_size - 4


def test_networks_are_models_of_their_own_with_the_weights_they_load(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    outcome = triton(EMBEDDED, repository, "--networks", "onnxruntime", "--gpu", "--instances", "2")
    assert outcome.exit_code == 0, outcome.output
    written = files(repository)
    for graph in ("unet", "unet.encoder"):
        folder = f"mdrt_{graph.replace('.', '_')}/1"
        assert {f"{folder}/{graph}.onnx", f"{folder}/unet.onnx.data"} <= written
    assert {"mdrt_vae_encoder/1/vae_encoder.onnx", "mdrt_keys/1/keys.onnx"} <= written


def test_the_bundle_keeps_its_files_to_itself(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(EMBEDDED, bundle)
    assert triton(bundle, tmp_path / "models", "--networks", "onnxruntime").exit_code == 0
    assert {file.stat().st_nlink for file in bundle.iterdir() if file.is_file()} == {1}


def test_configurations_are_what_triton_declares(tmp_path: Path) -> None:
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient")
    text_format = pytest.importorskip("google.protobuf.text_format")
    repository = tmp_path / "models"
    names = 'sky, "sea", été'
    assert (
        triton("embedded", repository, "--networks", "onnxruntime", "--classes", names).exit_code
        == 0
    )
    manifest = load_bundle(EMBEDDED).manifest
    found = {}
    for path in repository.glob("*/config.pbtxt"):
        found[path.parent.name] = text_format.Parse(path.read_text(), model_config.ModelConfig())
    assert all(config.name == name for name, config in found.items())
    unet = found["mdrt_unet"]
    assert (unet.backend, unet.max_batch_size) == ("onnxruntime", BATCH)
    assert unet.HasField("dynamic_batching")
    assert unet.model_warmup[0].inputs["sample"].zero_data
    fed = {tensor.name: tensor for tensor in unet.input}
    assert list(fed[contract.SAMPLE].dims) == [manifest.latent.channels, -1, -1]
    assert list(fed[contract.TIMESTEP].dims) == [1]
    assert list(fed[contract.TIMESTEP].reshape.shape) == []
    given = {tensor.name for tensor in unet.output}
    assert {output.name for output in manifest.features} < given
    told = {key: value.string_value for key, value in found["mdrt"].parameters.items()}
    assert json.loads(told["classes"]) == [["sky"], ['"sea"'], ["été"]]
    assert set(json.loads(told["networks"])) == found.keys() - {"mdrt"}


def test_text_is_protobufs() -> None:
    assert pbtxt(
        {"a": 'é"\\', "b": Word("KIND_CPU"), "c": [1, -1], "d": [{"e": True}], "f": {}}
    ) == ('a: "\\303\\251\\042\\134"\nb: KIND_CPU\nc: [1, -1]\nd {\n  e: true\n}\nf {\n}\n')


def test_engines_that_triton_does_not_load_are_refused(tmp_path: Path) -> None:
    outcome = triton(EMBEDDED, tmp_path / "models", "--networks", "tensorrt")
    assert outcome.exit_code == 1
    assert "vae_encoder.plan does not exist; run `mdrt build" in outcome.output
    assert not (tmp_path / "models").exists()


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    outcome = triton("embedded", tmp_path)
    assert outcome.exit_code == 1
    assert "--overwrite" in outcome.output
    assert files(tmp_path) == {"own.txt"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--set", "refine=guided"], "give --head too"),
        (["--head", "attention", "--set", "refine=sharp"], "refine"),
        (["--classes", "sky, sky"], "given twice"),
        (["--gpu"], "--provider"),
        (["--networks", "onnxruntime", "--threads", "1"], "inside"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, options: list[str], line: str
) -> None:
    outcome = triton("embedded", tmp_path / "models", *options)
    assert outcome.exit_code != 0
    assert line in outcome.output
    assert not (tmp_path / "models").exists()
