"""Head `refined` on the embedded model, each recipe beside the naive code of its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from published import diffsegmenter, faseg, iseg, resizing, scaling, selfattention

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.runtime.errors import MdrtError
from mdrt.runtime.look.words import EncodedText

Floats = NDArray[np.float64]
T = 200


@pytest.fixture(scope="module")
def look() -> mdrt.Look:
    return mdrt.Segmenter().look(render(3).image)


NAMES = ["sky", "grass", "water", "house", "tree"]


def seen(look: mdrt.Look, noise: bool) -> tuple[Floats, list[Floats], list[Floats], EncodedText]:
    """The tokens' maps (heads, pixels, tokens) of all layers, and every self-attention's Q and K,
    of which the naive code divides Q by √d itself."""
    taps, text = look.taps, look.taps.network.words.encode(NAMES)
    asked: dict[str, Any] = {"probabilities": True, "noise": noise}
    cross = np.concatenate(taps.logits(taps.square, T, text, **asked))
    flat = cross.reshape(*cross.shape[:2], -1).transpose(0, 2, 1).astype(float)
    layers = taps.self_attention(T, noise=noise)
    queries = [layer.queries.astype(float) * layer.queries.shape[2] ** 0.5 for layer in layers]
    return flat, queries, [layer.keys.astype(float) for layer in layers], text


def by_class(values: Floats, text: EncodedText) -> Floats:
    """The mean over the tokens of a class, of (…, tokens): (…, classes)."""
    owner = text.prompts.owner
    return np.stack([values[..., owner == c].mean(axis=-1) for c in range(len(NAMES))], axis=-1)


def naive(look: mdrt.Look, recipe: str) -> Floats:
    """(classes, side, side): the embedded model has one resolution, which every recipe reads."""
    cross, queries, keys, text = seen(look, recipe != "faseg")
    side = int(cross.shape[1] ** 0.5)
    own = [selfattention.head_maps(q, k) for q, k in zip(queries, keys, strict=True)]
    maps = by_class(cross, text)
    if recipe == "diffsegmenter":
        found = diffsegmenter.refined({side: [maps]}, own, [1.0])
    elif recipe == "faseg":
        found = faseg.refined({side: [maps]}, {side: own}, [1.0], [1.0])
    elif recipe == "iseg":
        tokens = iseg.cross_prior(cross, cross, side, weights=(0.5, 0.5))
        smooth = by_class(iseg.cluster_smoothing(tokens, side).T, text)
        found = iseg.refine(iseg.transition(queries[-1], keys[-1], (1, 2), 0.015), smooth, 8).T
    else:
        prior = maps.mean(axis=0).T
        spread = prior @ selfattention.mean_map(own[-1:]).T
        return ((prior + spread) / 2).reshape(-1, side, side)
    return scaling.minmax_each(found.reshape(-1, side, side))


@pytest.mark.parametrize("recipe", ["mdrt", "diffsegmenter", "faseg", "iseg"])
def test_labels_are_those_of_the_naive_code(look: mdrt.Look, recipe: str) -> None:
    settings = {"recipe": recipe, "timestep": T, "refine": "none"}
    found = look.segment(NAMES, "refined", **settings)
    maps = resizing.bilinear(naive(look, recipe), look.size)
    assert np.mean(found.labels == maps.argmax(axis=0)) > 0.999
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, maps.max(axis=0), atol=2e-3)


def test_more_spreading_blurs(look: mdrt.Look) -> None:
    """Spread often enough, a map is the same everywhere: what is left of it is noise."""
    once, often = (
        look.segment(NAMES, "refined", spreads=n, timestep=T, refine="none", scores=True).scores
        for n in (1, 60)
    )
    assert once is not None
    assert often is not None
    assert often.std(axis=(1, 2)).sum() < once.std(axis=(1, 2)).sum()


def test_other_words_cost_no_pass(look: mdrt.Look) -> None:
    look.segment(NAMES, "refined", words="late", timestep=T)
    found = look.segment(["boat", "sand"], "refined", words="late", timestep=T)
    assert "unet" not in found.timings


def test_a_wrong_recipe_is_named(look: mdrt.Look) -> None:
    with pytest.raises(MdrtError, match="recipe is 'isegg', expected one of mdrt"):
        look.segment(NAMES, "refined", recipe="isegg")
