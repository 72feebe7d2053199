"""Embeddings that are kept on the disk: a known class list needs no text encoder."""

import os

import numpy as np
import pytest

import mdrt
from mdrt.runtime.bundle import contract
from mdrt.runtime.disk import texts
from mdrt.runtime.look import words
from mdrt.runtime.sessions.ort import OrtSession

NAMES = ["sky", "water", "boat"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, in which the embedded model's small encoder counts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(words, "KEPT_ABOVE", 0)
    return tmp_path / "mdrt" / "texts"


@pytest.fixture
def opened(monkeypatch):
    """The graphs that are loaded, by name."""
    names = []
    start = OrtSession.__init__

    def noted(self, path, *rest):
        names.append(path.name)
        start(self, path, *rest)

    monkeypatch.setattr(OrtSession, "__init__", noted)
    return names


def test_a_known_list_opens_no_text_encoder(cache, opened, picture):
    first = mdrt.Segmenter()(picture, NAMES)
    assert opened.count("text_encoder.onnx") == 1
    assert len(list(cache.iterdir())) == 2  # the names and, in mode "released", the empty prompt
    opened.clear()
    second = mdrt.Segmenter()(picture, NAMES)
    assert opened == ["vae_encoder.onnx", "unet.onnx"]
    np.testing.assert_array_equal(second.labels, first.labels)
    np.testing.assert_array_equal(second.confidence, first.confidence)
    mdrt.Segmenter()(picture, [*NAMES, "house"])  # another list
    assert "text_encoder.onnx" in opened


@pytest.mark.parametrize("damage", [b"", b"no array", None, "shape", "type"])
def test_what_is_damaged_is_computed_again(cache, opened, damage):
    wanted = mdrt.Segmenter().prepare(NAMES).inputs[contract.ENCODER_HIDDEN_STATES]
    (path,) = cache.iterdir()
    if damage is None:
        path.write_bytes(path.read_bytes()[:-7])
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.save(path, wanted[:, 1:] if damage == "shape" else wanted.astype("float64"))
    opened.clear()
    np.testing.assert_array_equal(
        mdrt.Segmenter().prepare(NAMES).inputs[contract.ENCODER_HIDDEN_STATES], wanted
    )
    assert "text_encoder.onnx" in opened


def test_another_text_encoder_is_another_list(cache):
    """Its every file counts, and every token."""
    segmenter = mdrt.Segmenter()
    side = segmenter.network.words
    ids = np.zeros((1, 40), np.int64)
    (text,) = segmenter.manifest.texts

    def digest(ids, output="encoder_hidden_states"):
        return side._digest(text, output, ids)

    digests = {digest(ids), digest(ids + 1), digest(ids.reshape(2, 20)), digest(ids, "pooled")}
    files = dict(segmenter.manifest.files)
    record = files[contract.text_encoder_name(0)]
    files[contract.text_encoder_name(0)] = contract.FileRecord("0" * 64, record.bytes)
    object.__setattr__(segmenter.manifest, "files", files)
    digests.add(digest(ids))
    assert len(digests) == 5


def test_a_cache_that_cannot_be_written_changes_nothing(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    mdrt.Segmenter().prepare(NAMES)
    monkeypatch.setattr(texts, "cache_folder", lambda: None)
    mdrt.Segmenter().prepare(NAMES)


def test_what_was_used_longest_ago_goes(cache, monkeypatch):
    for number in range(3):
        texts.keep_text(f"{number}", np.full(100, number, np.float32))
    size = (cache / "0.npy").stat().st_size
    monkeypatch.setattr(texts, "_MOST_BYTES", 3 * size)
    for age, name in enumerate(("0", "2", "1")):  # the newest first
        os.utime(cache / f"{name}.npy", (1e9 - age, 1e9 - age))
    assert texts.load_text("1")[0] == 1  # used again
    texts.keep_text("3", np.zeros(100, np.float32))
    assert sorted(path.stem for path in cache.iterdir()) == ["0", "1", "3"]


def test_the_embedded_model_keeps_nothing(tmp_path, monkeypatch, picture):
    """Its encoder is as fast as the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mdrt.Segmenter()(picture, NAMES)
    assert not list(tmp_path.iterdir())
