"""`mdrt export` of vision transformers, and labels of their bundles beside naive ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import random_models
from agreement import shares
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from published import gem, maskclip, resizing, scaling, vit
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.cli import main
from mdrt.export.exporter import ExportReport, export
from mdrt.export.options import ExportOptions
from mdrt.runtime.errors import ExportError, MdrtError
from mdrt.runtime.heads.templates import TEMPLATES

NAMES = ("sky", "grass", ("traffic light", "car"), "tree")
CLIP = {"patch": 8, "heads": 4, "blocks": 3, "epsilon": 1e-5}


@pytest.fixture(scope="module")
def clip(workspace: Path) -> Path:
    return random_models.save_clip(workspace / "clip", blocks=3)


@pytest.fixture(scope="module")
def clip_report(clip: Path, workspace: Path) -> ExportReport:
    return export(clip, workspace / "clip.bundle")


@pytest.fixture(scope="module")
def segmenter(clip_report: ExportReport) -> mdrt.Segmenter:
    return mdrt.Segmenter(clip_report.path)


@pytest.fixture(scope="module")
def image(segmenter: mdrt.Segmenter) -> NDArray[np.uint8]:
    """One tile, not square."""
    side = segmenter.manifest.image.native_size
    return render(11, size=side).image[: side - 16]


def naive_inputs(clip: Path, image: NDArray[np.uint8]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The weights by name, and the picture as CLIP takes it, (3, H, W)."""
    weights = {n: v.astype(np.float64) for n, v in load_file(clip / "model.safetensors").items()}
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    return weights, ((image / 255 - mean) / deviation).transpose(2, 0, 1)


def naive_names(clip: Path, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The names where their sentences are: (K, E)."""
    words = json.loads((clip / "config.json").read_text())["text_config"]
    tokenizer = Tokenizer.from_file(str(clip.with_suffix(".bundle") / "tokenizer/tokenizer.json"))
    embeddings = []
    for name in NAMES:
        sentences = [
            template.format(one)
            for one in ([name] if isinstance(name, str) else name)
            for template in TEMPLATES["one"]
        ]
        found = [
            vit.clip_text(
                weights, tokenizer.encode(sentence).ids, words["eos_token_id"], 4, 2, 1e-5
            )
            for sentence in sentences
        ]
        embeddings.append(found)
    return np.stack([vit.unit(np.mean(own, axis=0)[None])[0] for own in embeddings])


def naive_labels(scores: np.ndarray, image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The best name of every pixel, of scores (patches, K)."""
    rows, columns = (side // 8 for side in image.shape[:2])
    maps = scores.T.reshape(-1, rows, columns)
    return resizing.bilinear(maps, (image.shape[0], image.shape[1])).argmax(axis=0)


@pytest.mark.parametrize("head", ["maskclip", "gem"])
def test_labels_are_the_naive_ones(
    clip: Path, segmenter: mdrt.Segmenter, image: NDArray[np.uint8], head: str
) -> None:
    weights, pixels = naive_inputs(clip, image)
    features = (
        gem.features(weights, pixels, **CLIP)
        if head == "gem"
        else maskclip.features(weights, pixels, **CLIP)[0]
    )
    expected = naive_labels(features @ naive_names(clip, weights).T, image)
    assert len(np.unique(expected)) > 1
    result = segmenter(image, NAMES, head=head, templates="one")
    assert np.mean(result.labels == expected) >= 0.999
    assert result.settings["prompts"] == ["a photo of a {}."]
    assert result.classes == ("sky", "grass", "traffic light", "tree")


def test_every_tensor_is_proved_twins_and_cuts_too(clip_report: ExportReport) -> None:
    assert all(row.passed for row in clip_report.proof)
    graphs = {row.graph for row in clip_report.proof}
    assert {"vit.onnx", "vit.features.onnx", "text_encoder.onnx"} <= graphs
    tensors = {row.tensor for row in clip_report.proof if row.graph == "vit.onnx"}
    assert tensors == {"features_s8", "maskclip_s8", "maskclip_keys_s8", "gem_s8"}
    cut = {row.tensor for row in clip_report.proof if row.graph == "vit.features.onnx"}
    assert cut == tensors - {"gem_s8"}


def test_heads_read_what_they_need(
    segmenter: mdrt.Segmenter, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of CLIP is asked for names by maskclip, which runs no more than the cut; other names
    run no network, and other synonyms of a known name no text encoder."""
    look = segmenter.look(image)
    first = look.segment(NAMES)
    assert first.settings["head"] == "maskclip"
    assert len(first.settings["prompts"]) == 85
    again = look.segment(["grass", "sky"])
    assert "unet" not in again.timings
    monkeypatch.setattr(segmenter.network.words, "_pooled", None)  # not called
    look.segment(["car", "tree"])
    assert look.segments(3, "kmeans").settings["head"] == "kmeans"
    for head in ("maskdiffusion", "diffseg"):
        with pytest.raises(MdrtError, match=r"which .* does not give out; it gives out features"):
            segmenter.settle(head)


def test_cleaned_labels_are_the_naive_ones(
    clip: Path, segmenter: mdrt.Segmenter, image: NDArray[np.uint8]
) -> None:
    """Prompt denoising, key smoothing of all cells and of the less sure half, and both together."""
    weights, pixels = naive_inputs(clip, image)
    features, keys = maskclip.features(weights, pixels, **CLIP)
    scores = features @ naive_names(clip, weights).T
    probabilities = scaling.softmax(maskclip.SHARPNESS * scores)
    least = float(np.sort(probabilities.max(axis=0))[:2].mean())  # between the two least likely
    unsure = float(np.median(probabilities.max(axis=1)))
    dropped = maskclip.dropped(scores, least)
    assert dropped.sum() == 1
    kept = np.where(dropped, -100, scores)
    look = segmenter.look(image)
    for expected, settings in (
        (kept, {"denoising": least}),
        (maskclip.smoothed(scores, keys, 1.0), {"smoothing": 1.0}),
        (maskclip.smoothed(scores, keys, unsure), {"smoothing": unsure}),
        (maskclip.smoothed(kept, keys, 1.0), {"denoising": least, "smoothing": 1.0}),
    ):
        result = look.segment(NAMES, templates="one", **settings)
        assert np.mean(result.labels == naive_labels(expected, image)) >= 0.999, settings
        absent = [result.classes.index(name) for name in result.settings["absent"]]
        assert absent == (np.flatnonzero(dropped).tolist() if "denoising" in settings else [])
        assert not np.isin(result.labels, absent).any()


def test_large_pictures_are_tiled_and_mirrors_averaged(segmenter: mdrt.Segmenter) -> None:
    wide = render(3, size=256).image[:100]
    result = segmenter(wide, NAMES, head="gem")
    assert result.labels.shape == (100, 256)
    assert result.settings["tiles"] > 1
    mirrored = segmenter(wide[:64, :72], NAMES, head="gem", mirror=True)
    turned = segmenter(wide[:64, 71::-1], NAMES, head="gem", mirror=True)
    assert np.mean(mirrored.labels == turned.labels[:, ::-1]) > 0.999


@pytest.mark.parametrize("size", [72, 48])
def test_parity_with_pytorch(clip: Path, clip_report: ExportReport, size: int) -> None:
    """Every tensor at both sizes; labels at the native one, to which smaller pictures are enlarged
    before the network sees them."""
    found = shares(clip_report.path, clip, size)
    assert found.keys() == {"maskclip", "gem"}
    if size == clip_report.manifest.image.native_size:
        assert min(found.values()) >= 0.999


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_finds_segments_and_takes_no_names(workspace: Path, registers: int) -> None:
    source = random_models.save_dinov2(workspace / f"dino{registers}", registers=registers)
    report = export(source, workspace / f"dino{registers}.bundle")
    assert all(row.passed for row in report.proof)
    assert report.manifest.texts == ()
    assert shares(report.path, source, 42).keys() == {"kmeans"}
    assert shares(report.path, source, 56)["kmeans"] >= 0.999
    segmenter = mdrt.Segmenter(report.path)
    image = render(5, size=56).image
    for head in ("spectral", "kmeans", "ncut", "multicut"):
        assert segmenter(image, segments="auto", head=head).labels.shape == (56, 56)
    with pytest.raises(MdrtError, match="can be asked for no names"):
        segmenter(image, ["sky"])
    with pytest.raises(MdrtError, match="expected 'decoder'"):
        segmenter(image, segments=2, features="encoder")


def save_onnx(path: Path, stride: int = 4, prefix: int = 2) -> Path:
    """Patches of a convolution behind `prefix` constant tokens: (batch, prefix + patches, 6)."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 3, stride, stride), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["picture", "weight"], ["maps"], strides=[stride, stride]),
        helper.make_node("Reshape", ["maps", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["patches", "zero", "one", "axis"], ["first"]),
        helper.make_node("Concat", ["first"] * prefix + ["patches"], ["tokens"], axis=1),
    ]
    ints = {"flat": [0, 6, -1], "zero": [0], "one": [1], "axis": [1]}
    held = [numpy_helper.from_array(np.array(v, dtype=np.int64), n) for n, v in ints.items()]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n", "t", 6])],
        [numpy_helper.from_array(weight, "weight"), *held],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_an_onnx_file_keeps_its_values(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "tokens.onnx")
    done = CliRunner().invoke(main, ["export", str(path), "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    assert "mdrt segment PICTURE --unsupervised" in done.output
    segmenter = mdrt.Segmenter(tmp_path / "bundle")
    assert segmenter.manifest.image.native_size == 512
    assert [f.name for f in segmenter.manifest.features] == ["features_s4"]
    picture = tmp_path / "scene.png"
    Image.fromarray(render(2, size=128).image).save(picture)
    arguments = ["segment", str(picture), "--engine", str(tmp_path / "bundle"), "--segments", "3"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output


def test_what_is_no_vision_transformer_is_refused(
    tmp_path: Path, clip: Path, clip_report: ExportReport
) -> None:
    text = clip_report.path / "text_encoder.onnx"
    for path, reason in (
        (text, "cutting pictures into patches"),
        (tmp_path / "none.onnx", "does not exist"),
    ):
        with pytest.raises(ExportError, match=reason):
            export(path, tmp_path / "bundle")
    with pytest.raises(ExportError, match=r"feature strides .* is of diffusion models"):
        export(clip, tmp_path / "bundle", ExportOptions(feature_strides=(8,)))
    file = save_onnx(tmp_path / "tokens.onnx")
    with pytest.raises(ExportError, match="takes no precision"):
        export(file, tmp_path / "bundle", ExportOptions(precision="fp16"))
    assert not (tmp_path / "bundle").exists()
