"""A bundle is trusted only after checking; what is wrong is said in one line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrt.runtime.bundle import contract
from mdrt.runtime.bundle.loading import load_bundle, record_file, write_manifest
from mdrt.runtime.errors import BundleError
from mdrt.runtime.segmenter import EMBEDDED

GRAPHS = (
    "vae_encoder.onnx",
    "text_encoder.onnx",
    "keys.onnx",
    "values.onnx",
    "unet.onnx",
    "unet.encoder.onnx",
)
FILES = (*GRAPHS, contract.tokenizer_name(0), "unet.onnx.data")


def make_manifest(directory: Path) -> contract.Manifest:
    """A manifest of the files in `directory`, with plausible values."""
    names = [*FILES, contract.NOISE]
    return contract.Manifest(
        model_id="test",
        created_by={"mdrt": "0.1.0", "opset": "20"},
        precision="fp32",
        image=contract.ImageSpec((0.5,) * 3, (0.5,) * 3, native_size=512, size_multiple=64),
        latent=contract.LatentSpec(factor=8, channels=4, scaling=0.18215, shift=0.0),
        noise=contract.NoiseSpec("diffusion", (0.9991, 0.1 + 0.2, 1 / 3), "epsilon"),
        texts=(
            contract.TextSpec(
                "text_encoder.onnx",
                "tokenizer/tokenizer.json",
                contract.TokenizerSpec(max_length=77, bos=49406, eos=49407, pad=49407),
                hidden=768,
            ),
        ),
        network="unet.onnx",
        features=(contract.FeatureOutput("features_s64", 64, 2560),),
        attention=(contract.AttentionOutput("logits_s64_0", 64, 8, 160, 1280, "mid_block.attn2"),),
        self_attention=(),
        encoder=(contract.FeatureOutput("encoder_s32", 32, 1280),),
        aligned=(),
        recommended={"maskdiffusion": {"pooling": "exp", "map_power": 1.0, "strides": (64, 32)}},
        classes=("sky", "Straße"),
        synonyms=(),
        files={name: record_file(directory / name) for name in names},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graphs are a few bytes each: `load_bundle` does not look inside."""
    directory = tmp_path / "bundle"
    (directory / "tokenizer").mkdir(parents=True)
    for name in FILES:
        (directory / name).write_bytes(f"contents of {name}".encode())
    for name in GRAPHS:  # each a model that has a producer's name alone
        (directory / name).write_bytes(bytes([2 << 3 | 2, len(name)]) + name.encode())
    np.save(directory / contract.NOISE, np.zeros((4, 8, 8), np.float32))
    write_manifest(directory, make_manifest(directory))
    return directory


def edit(bundle: Path, change: Callable[[dict], object], seal: bool = True) -> None:
    """Change the manifest's JSON in place; with `seal` as an exporter that wrote it so would."""
    path = bundle / contract.MANIFEST
    values = json.loads(path.read_text())
    change(values)
    if seal:
        values["sha256"] = contract.digest(values)
    path.write_text(json.dumps(values))


def message(path: Path, verify: bool = True) -> str:
    """The error's text, which must be one line."""
    with pytest.raises(BundleError) as caught:
        load_bundle(path, verify=verify)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_manifest_survives_the_round_trip(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.manifest == make_manifest(bundle)
    assert loaded.manifest.noise.levels[1] == 0.1 + 0.2  # float64 to the last bit
    names = ("features_s64", "logits_s64_0", "queries_s64_0", "encoder_s32")
    assert loaded.manifest.output_names == names
    assert loaded.noise().shape == (4, 8, 8)
    assert loaded.network == bundle / "unet.onnx"


def test_bundle_is_found_by_its_unet(bundle: Path) -> None:
    assert load_bundle(bundle / "unet.onnx").path == bundle


def test_a_plan_in_no_bundle(tmp_path: Path) -> None:
    assert "has no manifest.json" in message(tmp_path / "unet.plan")
    assert "no bundle at" in message(tmp_path / "nowhere.plan")


def test_nothing_there(tmp_path: Path) -> None:
    assert "mdrt export" in message(tmp_path / "absent")
    assert "manifest.json" in message(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"")
    assert "picture.png" in message(tmp_path / "picture.png")


@pytest.mark.parametrize("name", [*FILES, contract.NOISE])
def test_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert name in message(bundle)
    assert "missing" in message(bundle, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_file(bundle: Path, verify: bool) -> None:
    path = bundle / "unet.onnx.data"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    text = message(bundle, verify)
    assert f"{size - 1} bytes, expected {size}" in text
    assert "mdrt export" in text


def test_edited_byte(bundle: Path) -> None:
    path = bundle / "text_encoder.onnx"
    contents = bytearray(path.read_bytes())
    contents[3] ^= 1
    path.write_bytes(contents)
    assert "text_encoder.onnx has SHA-256" in message(bundle)
    load_bundle(bundle, verify=False)


def places(value: object, where: tuple = ()) -> list[tuple]:
    """Where every number and every string of a JSON value stands."""
    if not isinstance(value, dict | list):
        return [where]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for key, item in items for place in places(item, (*where, key))]


def test_any_edited_value_is_refused(bundle: Path) -> None:
    """A number off by its last bit would give other masks, and no other check would see it."""
    original = (bundle / contract.MANIFEST).read_text()
    values = json.loads(original)
    for *where, last in places(values):

        def change(values: dict, where: list = where, last: object = last) -> None:
            for key in where:
                values = values[key]
            value = values[last]
            if isinstance(value, float):
                values[last] = float(np.nextafter(value, np.inf))
            else:
                values[last] = value + 1 if isinstance(value, int) else f"{value} "

        edit(bundle, change, seal=False)
        text = message(bundle, verify=False)
        assert "schema version" in text if last == "schema_version" else "SHA-256" in text
        (bundle / contract.MANIFEST).write_text(original)
    load_bundle(bundle)


def test_a_reformatted_manifest_is_the_same(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(classes=values.pop("classes")), seal=False)
    load_bundle(bundle)


def test_a_manifest_without_its_digest(bundle: Path) -> None:
    edit(bundle, lambda values: values.pop("sha256"), seal=False)
    assert "manifest lacks the key sha256" in message(bundle)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 8, None, "7", True])
def test_other_schema_version(bundle: Path, version: object) -> None:
    def change(values: dict) -> None:
        values["schema_version"] = version
        values["a_key_of_the_future"] = 1

    edit(bundle, change)
    text = message(bundle)
    assert repr(version) in text
    assert "reads version 7" in text


def test_unknown_key_of_this_version(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(surprise=1))
    assert "surprise" in message(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00", "[" * 100_000])
def test_corrupt_manifest(bundle: Path, text: str) -> None:
    (bundle / contract.MANIFEST).write_text(text)
    assert "manifest.json" in message(bundle)


def test_manifest_of_no_text(bundle: Path) -> None:
    (bundle / contract.MANIFEST).write_bytes(b"\xff\xfe\x00")
    assert "manifest.json" in message(bundle)


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(contract.Manifest)])
def test_every_key_is_needed_and_typed(bundle: Path, key: str) -> None:
    original = (bundle / contract.MANIFEST).read_text()
    edit(bundle, lambda values: values.pop(key))
    text = message(bundle)
    assert key in text or "schema version" in text
    (bundle / contract.MANIFEST).write_text(original)
    edit(bundle, lambda values: values.update({key: {"wrong": None}}))
    text = message(bundle)
    assert key in text or "schema version" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precision", "int8"),
        ("noise.levels", [2.0]),
        ("noise.levels", [0.5] * 100_001),
        ("noise.levels", []),
        ("noise.law", "brownian"),
        ("noise.prediction_type", "x0"),
        ("latent.scaling", 0.0),
        ("latent.scaling", float("inf")),
        ("latent.shift", float("nan")),
        ("latent.shift", 10**400),
        ("latent.channels", 10**9),
        ("latent.factor", 0),
        ("image.native_size", 0),
        ("image.native_size", 64 << 20),
        ("image.native_size", 500),
        ("image.size_multiple", 1 << 40),
        ("image.size_multiple", 4),
        ("image.mean", [0.5, 0.5]),
        ("image.deviation", [0.5, 0.0, 0.5]),
        ("network", "model.onnx"),
        ("texts.0.tokens.max_length", 2),
        ("texts.0.tokens.max_length", 10**12),
        ("texts.0.tokens.bos", -2),
        ("texts.0.tokens.eos", -1),
        ("texts.0.tokens.eos", 1 << 64),
        ("texts.0.hidden", 0),
        ("texts.0.pooled", -1),
        ("texts.0.graph", "../text_encoder.onnx"),
        ("texts.0.tokenizer", "tokenizer_2/tokenizer.json"),
        ("texts", []),
        ("features", [{"name": "f", "stride": 64, "channels": 0}]),
        ("attention", [{"name": "a", "stride": 64, "heads": 1 << 40, "layer": "l"}]),
        ("files", {"unet.onnx": {"sha256": "0" * 64, "bytes": -1}}),
        ("files", {"unet.onnx": {"sha256": "0" * 63, "bytes": 1}}),
        ("recommended", {"pooling": "max"}),
        ("recommended", {"maskdiffusion": {"pooling": None}}),
        ("recommended", {"maskdiffusion": {"pooling": {"of": "max"}}}),
        ("recommended", {"maskdiffusion": {"strides": [64, "32"]}}),
    ],
)
def test_impossible_values(bundle: Path, key: str, value: object) -> None:
    def change(values: Any) -> None:
        *where, last = key.split(".")
        for name in where:
            values = values[int(name) if name.isdecimal() else name]
        values[last] = value

    edit(bundle, change)
    assert key.rpartition(".")[2] in message(bundle)


@pytest.mark.parametrize(
    "kinds",
    [("features", "encoder"), ("attention",), ("noise", "attention"), ("latent", "noise")],
)
def test_what_a_model_may_lack(bundle: Path, kinds: tuple[str, ...]) -> None:
    nothing = {"noise": None, "latent": None}
    edit(bundle, lambda values: values.update({kind: nothing.get(kind, []) for kind in kinds}))
    manifest = load_bundle(bundle).manifest
    assert not any(getattr(manifest, kind) for kind in kinds)


def test_a_model_that_gives_out_nothing(bundle: Path) -> None:
    kinds = ("features", "attention", "encoder")
    edit(bundle, lambda values: values.update({kind: [] for kind in kinds}))
    assert "at least one output" in message(bundle)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", "noise.npy/x", "\ud800"])
def test_a_file_of_an_impossible_name(bundle: Path, name: str) -> None:
    record = {"sha256": "0" * 64, "bytes": 1}
    edit(bundle, lambda values: values["files"].update({name: record}))
    message(bundle)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04N.",
        b"\x93NUMPY\x01\x00\x46\x00{'descr':'<f4','fortran_order':False,'shape':(4,99999999,99999999)}\n",
        b"\x93NUMPY\x01\x00\x05\x00{'a'}\n",
    ],
)
def test_noise_that_is_no_array(bundle: Path, content: bytes) -> None:
    (bundle / contract.NOISE).write_bytes(content)
    write_manifest(bundle, make_manifest(bundle))
    opened = load_bundle(bundle)
    with pytest.raises(BundleError, match=r"noise\.npy cannot be read") as caught:
        opened.noise()
    assert "\n" not in str(caught.value)


def test_a_file_outside_the_bundle_is_refused(bundle: Path) -> None:
    record = {"sha256": "0" * 64, "bytes": 1}
    edit(bundle, lambda values: values["files"].update({"../secret": record}))
    assert "outside" in message(bundle)


def test_a_needed_file_is_listed(bundle: Path) -> None:
    edit(bundle, lambda values: values["files"].pop("unet.onnx"))
    assert "does not list unet.onnx" in message(bundle)


@pytest.mark.parametrize(
    "noise", [np.zeros((3, 8, 8), np.float32), np.zeros((4, 8, 8)), np.zeros(4, np.float32)]
)
def test_noise_of_another_shape(bundle: Path, noise: np.ndarray) -> None:
    np.save(bundle / contract.NOISE, noise)
    write_manifest(bundle, make_manifest(bundle))
    opened = load_bundle(bundle)
    with pytest.raises(BundleError, match=r"expected float32 \(4, N, N\)"):
        opened.noise()


def test_a_manifest_that_was_read_can_be_written_again(tmp_path):
    manifest = load_bundle(EMBEDDED).manifest
    write_manifest(tmp_path, manifest)
    assert (tmp_path / "manifest.json").read_bytes() == (EMBEDDED / "manifest.json").read_bytes()
