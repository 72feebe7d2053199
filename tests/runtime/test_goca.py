"""Head `goca` on the embedded model, beside the naive code of its paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from published import goca, resizing, scaling, selfattention

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.runtime.heads.goca import reference
from mdrt.runtime.look.taps import CrossAttention

Floats = NDArray[np.float64]
T = 200
NAMES = ["sky", ("grass", "meadow"), "water", "house", "tree"]


@pytest.fixture(scope="module")
def look() -> mdrt.Look:
    return mdrt.Segmenter().look(render(3).image)


def identity(heads: int, width: int) -> Floats:
    """W that leaves V as it is: the bundle's values are through it already."""
    return np.broadcast_to(np.eye(width), (heads, width, width))


def naive(look: mdrt.Look, late: bool) -> Floats:
    """(classes, side, side); of one prompt, on the one grid that the embedded model has."""
    taps, text = look.taps, look.taps.network.words.encode(NAMES)
    layers = taps.cross_attention(T, text, late=late)
    maps = []
    for layer in layers:
        queries, keys, values = (
            part[0].astype(float) for part in (layer.queries, layer.keys, layer.values)
        )
        p = scaling.softmax(queries @ keys.transpose(0, 2, 1))
        maps.append(goca.layer_map(p, values, identity(len(p), values.shape[2]))[0])
    own = [
        selfattention.head_maps(s.queries.astype(float) * s.queries.shape[2] ** 0.5, s.keys)
        for s in taps.self_attention(T)
    ]
    queries = layers[-1].queries[0].astype(float) * layers[-1].queries.shape[3] ** 0.5
    features = queries.transpose(1, 0, 2).reshape(queries.shape[1], -1)
    side = resizing.square_side(len(features))
    c = goca.aggregate(maps, goca.layer_weights(features, own), side)
    prompts = text.prompts
    groups = [prompts.position[prompts.owner == k].tolist() for k in range(len(NAMES))]
    rescaled = goca.rescale(c, groups, prompts.position.tolist())
    return goca.propagate(goca.spreading(own, side), rescaled).reshape(-1, side, side)


@pytest.mark.parametrize("words", ["driven", "late"])
def test_labels_are_those_of_the_naive_code(look: mdrt.Look, words: str) -> None:
    settings = {"timestep": T, "words": words, "refine": "none", "propagations": 2}
    found = look.segment(NAMES, "goca", **settings)
    maps = resizing.bilinear(naive(look, words == "late"), look.size)
    assert np.mean(found.labels == maps.argmax(axis=0)) > 0.999
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, maps.max(axis=0), atol=2e-3)


def test_a_background_of_several_objects_has_the_largest_of_their_maps(look: mdrt.Look) -> None:
    """As if each were a class: the same prompt, so the same pass."""
    objects = ("background", "grass", "cloud")
    settings = {"timestep": T, "refine": "none", "propagations": 0, "scores": True}
    apart = look.segment(["house", *objects, "tree"], "goca", **settings)
    joined = look.segment(["house", objects, "tree"], "goca", **settings)
    assert joined.classes == ("house", "background", "tree")
    cells, own = joined.weights.values, apart.weights.values
    most = own[1:4].max(axis=0)
    np.testing.assert_allclose(cells[1], (most - most.min()) / np.ptp(most), atol=1e-6)
    np.testing.assert_allclose(cells[[0, 2]], own[[0, 4]], atol=1e-6)
    synonyms = look.segment(["house", ("meadow", "grass", "cloud"), "tree"], "goca", **settings)
    assert not np.allclose(synonyms.weights.values[1], cells[1], atol=1e-3)


@pytest.mark.parametrize("words", ["driven", "late"])
def test_names_of_several_prompts(look: mdrt.Look, words: str) -> None:
    names = [f"{adjective} {name}" for adjective in ("red", "small", "old") for name in CLASSES]
    taps, text = look.taps, look.taps.network.words.encode(names)
    prompts = len(text.prompts.texts)
    assert prompts > 1
    seen = taps.cross_attention(T, text, late=words == "late")
    assert all(len(layer.queries) == len(layer.values) == prompts for layer in seen)
    found = look.segment(names, "goca", timestep=T, words=words, scores=True)
    assert found.scores is not None
    assert np.isfinite(found.scores).all()


def test_heads_and_layers_may_weigh_alike(look: mdrt.Look) -> None:
    labels = [
        look.segment(NAMES, "goca", timestep=T, heads=heads, layers=layers).labels
        for heads in ("dot", "mean")
        for layers in ("graph", "mean")
    ]
    assert len({found.tobytes() for found in labels}) > 2


def test_other_words_cost_no_pass(look: mdrt.Look) -> None:
    look.segment(NAMES, "goca", words="late", timestep=T)
    found = look.segment(["boat", "sand"], "goca", words="late", timestep=T)
    assert "unet" not in found.timings


def test_values_are_what_a_layer_gives(look: mdrt.Look) -> None:
    """Keys and values of a text are of one shape but for their width, the manifest's."""
    network = look.taps.network
    text = network.words.encode(NAMES)
    for layer, keys, values in zip(
        network.manifest.attention,
        network.words.keys(text),
        network.words.values(text),
        strict=True,
    ):
        assert values.shape == (*keys.shape[:3], layer.width)


def test_the_reference_is_that_of_stable_diffusion() -> None:
    """The published layer, of all that Stable Diffusion 1.x has, in order."""
    from mdrt.runtime.bundle.contract import AttentionOutput

    blocks = [("down_blocks.0", 8, 2), ("down_blocks.1", 16, 2), ("down_blocks.2", 32, 2)]
    blocks += [("mid_block", 64, 1), ("up_blocks.1", 32, 3), ("up_blocks.2", 16, 3)]
    blocks += [("up_blocks.3", 8, 3)]
    nothing = np.zeros(0)
    layers = [
        CrossAttention(
            AttentionOutput(
                f"logits_s{stride}_{i}", stride, 8, 40, 320, f"{path}.attentions.{i}.x"
            ),
            nothing,
            nothing,
            nothing,
        )
        for path, stride, count in blocks
        for i in range(count)
    ]
    assert reference(layers).declared.layer == "up_blocks.2.attentions.1.x"
    coarse = [layer for layer in layers if layer.declared.stride >= 32]
    assert reference(coarse).declared.layer == "up_blocks.1.attentions.1.x"
