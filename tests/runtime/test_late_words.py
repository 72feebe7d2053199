"""Late words: the empty prompt drives the pass, names are multiplied in afterwards."""

from __future__ import annotations

import numpy as np
import pytest

import mdrt
from mdrt import kernels
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.runtime.look.words import MOST_PROMPTS
from mdrt.runtime.sessions.base import Session

NAMES = ["sky", ("water", "sea"), "boat"]
MANY = [f"{adjective} {name}" for adjective in ("red", "small", "old") for name in CLASSES]


@pytest.fixture
def wide():
    """Overlapping tiles."""
    return np.concatenate([render(8, 384).image, render(9, 384).image[:, :100]], axis=1)


@pytest.fixture
def passes(segmenter, monkeypatch):
    """Which graph ran, in order."""
    ran = []
    infer = Session.infer

    def counted(self, *arguments):
        ran.append(self.path.name.partition(".")[0])
        return infer(self, *arguments)

    monkeypatch.setattr(Session, "infer", counted)
    return ran


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("names", [NAMES, MANY], ids=["one prompt", "several prompts"])
def test_late_logits_are_the_graphs_own(segmenter, wide, names, probabilities):
    """With the driving prompt equal to the words' prompt; of several, each drives its own pass."""
    network = segmenter.network
    canvas = segmenter.look(wide).taps.canvas
    assert len(canvas.origins) > 1
    text, z = network.words.encode(names), network.encode(wide, canvas)
    count = len(text.prompts.texts)
    assert (count > 1) == (names is MANY)
    for driving in range(count):
        prompt = text.prompts.texts[driving].split(" and ")
        drives = network.words.encode(prompt)
        seen = network.denoise(canvas, z, drives, 5, queries=True, probabilities=probabilities)
        late = network.attend(canvas, seen.queries, drives, probabilities)
        for own, other in zip(seen.logits, late, strict=True):
            assert own.shape == other.shape
            assert np.abs(own - other).max() <= 1e-5 * np.abs(own).max()


def test_late_logits_of_several_prompts_are_those_of_each(segmenter, picture):
    """Words of many prompts over one pass: as if each prompt were asked alone."""
    network = segmenter.network
    canvas = segmenter.look(picture).taps.canvas
    z = network.encode(picture, canvas)
    queries = network.denoise(canvas, z, network.words.encode(None), 0, queries=True).queries
    text = network.words.encode(MANY)
    together = network.attend(canvas, queries, text, False)
    for prompt, words in enumerate(text.prompts.texts):
        alone = network.attend(canvas, queries, network.words.encode(words.split(" and ")), False)
        own = text.prompts.prompt == prompt
        for layer, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(layer[:, own], single, rtol=1e-4, atol=1e-5)


def test_logits_are_an_inner_product_of_each_pair():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((2, 5, 3)).astype(np.float32)
    keys = rng.standard_normal((2, 4, 3)).astype(np.float32)
    found = kernels.logits(queries, keys)
    assert found.shape == (2, 5, 4)
    for head, pixel, token in np.ndindex(found.shape):
        wanted = sum(float(queries[head, pixel, i]) * float(keys[head, token, i]) for i in range(3))
        assert found[head, pixel, token] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "unets"),
    [("paper", 1), ("released", 2)],  # released sees the picture once more, as one square
)
def test_other_words_cost_no_pass(segmenter, picture, passes, mode, unets):
    look = segmenter.look(picture)
    options = {"mode": mode, "words": "late", "timestep": 3}
    look.segment(NAMES, **options)
    assert passes.count("unet") == unets
    assert passes.count("vae_encoder") == 1  # a square picture is its own one square
    passes.clear()
    look.segment(["mountain", "cloud"], **options)
    look.segment(MANY, **options)
    look.segment(MANY, "attention", **options)
    look.segments(3, "kmeans", mode=mode, timestep=3)  # the empty prompt's features are there
    assert not {"unet", "vae_encoder"} & set(passes)


def test_driven_words_do_not_change(segmenter, picture):
    """Whatever was asked late of a look before."""
    look = segmenter.look(picture)
    late = look.segment(NAMES, words="late", mode="paper")
    driven = look.segment(NAMES, words="driven", mode="paper")
    alone = segmenter(picture, NAMES, words="driven", mode="paper")
    np.testing.assert_array_equal(driven.labels, alone.labels)
    np.testing.assert_array_equal(driven.confidence, alone.confidence)
    assert not np.array_equal(driven.confidence, late.confidence)  # another pass
    assert (driven.settings["words"], late.settings["words"]) == ("driven", "late")


def test_the_embedding_of_a_long_list_is_computed_in_parts(segmenter, passes, monkeypatch):
    """What the text side holds beside its results does not grow with the list."""
    rows = []
    infer = Session.infer

    def watched(self, feeds, *rest):
        rows.append(max(len(array) for array in feeds.values()))
        return infer(self, feeds, *rest)

    monkeypatch.setattr(Session, "infer", watched)
    names = [f"{name} {i}" for i in range(18) for name in CLASSES]
    text = segmenter.prepare(names)
    segmenter.network.words.keys(text)
    assert len(text.prompts.texts) > 2 * MOST_PROMPTS
    assert max(rows) == MOST_PROMPTS
    assert passes.count("text_encoder") == passes.count("keys") > 2


def test_a_bundle_without_the_graph_of_keys_is_refused(tmp_path):
    import shutil

    from mdrt.runtime.segmenter import EMBEDDED

    shutil.copytree(EMBEDDED, tmp_path / "bundle")
    (tmp_path / "bundle" / "keys.onnx").unlink()
    with pytest.raises(mdrt.BundleError, match=r"keys\.onnx"):
        mdrt.Segmenter(tmp_path / "bundle")
