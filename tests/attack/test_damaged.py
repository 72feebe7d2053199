"""Whatever is damaged in a bundle, a class file or a record: one line, of an error that is told."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import mdrt
from mdrt.benchmarks.accuracy.store import RESULTS, Store
from mdrt.cli import main
from mdrt.runtime.bundle.contract import DIGEST, MANIFEST, NOISE, digest, tokenizer_name
from mdrt.runtime.bundle.loading import load_bundle, record_file
from mdrt.runtime.bundle.plan import plan_name, sidecar_name
from mdrt.runtime.errors import BundleError, MdrtError, PromptError
from mdrt.runtime.look.prompts import PromptTokenizer
from mdrt.runtime.pictures.output import read_record
from mdrt.runtime.segmenter import EMBEDDED


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "bundle", copy_function=shutil.copy))


def reseal(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Make the manifest say what is there, as whoever wants to deceive would."""
    values = json.loads((bundle / MANIFEST).read_text())
    for name in values["files"]:
        record = record_file(bundle / name)
        values["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    change(values)
    values[DIGEST] = digest(values)
    (bundle / MANIFEST).write_text(json.dumps(values))


def line_of(work: Callable[[], object], kind: type[mdrt.MdrtError] = BundleError) -> str:
    with pytest.raises(kind) as caught:
        work()
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, noise=np.zeros(3))
    return file.getvalue()


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


FLOATS = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}"
NOISES = {
    "npz": npz(),
    "empty": b"",
    "overflowing": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 99999999999, 99999999)}"
    ),
    "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, -1, 8)}"),
    "deep": npy("(" * 9000),
    "pickled": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
    + b"cos\nsystem\n(S'x'\ntR.",
    "of another kind": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0,)}"),
    "not finite": npy(FLOATS.format("(4, 1, 1)")) + np.full(4, np.nan, "<f4").tobytes(),
}


@pytest.mark.parametrize("content", NOISES.values(), ids=NOISES)
def test_noise(bundle: Path, content: bytes) -> None:
    (bundle / NOISE).write_bytes(content)
    reseal(bundle)
    assert NOISE in line_of(lambda: load_bundle(bundle).noise())


def tokenizer(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update(changes)


TOKENIZERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "Precompiled": tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAA"}),
    "Precompiled within": tokenizer(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Precompiled"}]}
    ),
    "WordLevel without unknown": tokenizer(
        model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    ),
    "no model": tokenizer(model=None),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
def test_tokenizer(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / tokenizer_name(0)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    spec = load_bundle(EMBEDDED, verify=False).manifest.texts[0].tokens
    line_of(lambda: PromptTokenizer(path, spec).encode(["sky"]))


@pytest.mark.parametrize("text", ["", "[]", "7", "[" * 100_000, '{"model": {"type": '])
def test_no_tokenizer(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    spec = load_bundle(EMBEDDED, verify=False).manifest.texts[0].tokens
    line_of(lambda: PromptTokenizer(tmp_path / "tokenizer.json", spec))


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a huge factor": lambda m: m["latent"].update(scaling=10**400),
    "a huge side": lambda m: m["image"].update(native_size=10**400),
    "a negative side": lambda m: m["image"].update(native_size=-256),
    "control characters": lambda m: m.update(model_id="evil\x1b[2J"),
    "half a character": lambda m: m.update(model_id="\ud800"),
    "a long name": lambda m: m.update(model_id="x" * 100_000),
    "an unknown key": lambda m: m.update({"x\x1b[2J" * 1000: 1}),
    "a long file name": lambda m: m["files"].update({"x" * 300: {"sha256": "0" * 64, "bytes": 1}}),
    "a file outside": lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}),
    "a file with a null": lambda m: m["files"].update({"a\0": {"sha256": "0" * 64, "bytes": 1}}),
    "an infinite value": lambda m: m["noise"]["levels"].__setitem__(0, float("inf")),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    reseal(bundle, change)
    assert line_of(lambda: load_bundle(bundle)).isprintable()


@pytest.mark.parametrize(
    "text", ["", "null", "[" * 100_000, "1" * 5000, '{"a": 1e999}', "\ufeff{}"]
)
def test_no_manifest(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    line_of(lambda: load_bundle(bundle))


def test_a_bundle_whose_name_is_too_long() -> None:
    line_of(lambda: load_bundle("x" * 300))
    line_of(lambda: load_bundle("x\0y"))


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"schema_version": 2}', "1" * 5000])
def test_sidecar(bundle: Path, text: str) -> None:
    (bundle / plan_name("unet.onnx")).write_bytes(b"engine")
    (bundle / sidecar_name("unet.onnx")).write_text(text)
    line_of(lambda: load_bundle(bundle / plan_name("unet.onnx")))


def test_inputs_of_other_types(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from mdrt.runtime.sessions.ort import OrtSession

    double = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    for name, node in (("double", double), ("sequence", sequence)):
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        kind = "Cast" if name == "double" else "ConcatFromSequence"
        attribute = {"to": TensorProto.FLOAT} if name == "double" else {"axis": 0}
        step = helper.make_node(kind, ["x"], ["y"], **attribute)
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(
            helper.make_graph([step], "g", [node], [out]), opset_imports=opset, ir_version=8
        )
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        assert "expected tensor(float)" in line_of(lambda path=path: OrtSession(path))


RECORDS = ["", "[]", "[" * 100_000, '{"schema": 4}', '{"schema": true, "versions": {"mdrt": "1"}}']


@pytest.mark.parametrize("text", RECORDS)
def test_records_of_others(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    found = read_record(tmp_path / "x.json")
    assert found is None or found["schema"] is True


@pytest.mark.parametrize("key", ["image", "bundle", "settings", "classes", "background"])
def test_an_edited_record_is_no_result_to_pass_over(
    picture_file: Path, tmp_path: Path, key: str
) -> None:
    words = ["segment", str(picture_file), "--classes", "sky", "--out", str(tmp_path / "o")]
    assert CliRunner().invoke(main, words).exit_code == 0
    path = tmp_path / "o" / "scene.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: 7}))
    done = CliRunner().invoke(main, [*words, "--skip-existing"])
    assert done.exit_code == 0, done.output
    assert json.loads(path.read_text())[key] == values[key]


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\x07b", "\u202eyks", "a\ud800"])
def test_names_that_steer_a_terminal(segmenter: mdrt.Segmenter, name: str) -> None:
    line = line_of(lambda: segmenter.prepare(["sky", name]), PromptError)
    assert line.isprintable()


def test_a_picture_s_name_is_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb.png"
    path.write_bytes(b"no picture")
    done = CliRunner().invoke(main, ["segment", str(path), "--classes", "sky", "-o", str(tmp_path)])
    assert done.exit_code == 1
    assert "\x1b[2J" not in done.output
    assert r"\x1b[2J" in done.output


def test_what_a_library_says_in_lines_is_one(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    with sqlite3.connect(path) as written:
        written.execute("CREATE TABLE counts (image)")
        written.execute("PRAGMA writable_schema = 1")
        written.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE counts (`\n)'")
    written.close()
    with pytest.raises(MdrtError, match="no result file") as raised:
        Store(path, {})
    assert "\n" not in str(raised.value)
