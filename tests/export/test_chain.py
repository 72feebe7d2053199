"""Image in, labels out: the exported bundle against the naive PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mdrt import Segmenter
from mdrt.benchmarks import naive
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.benchmarks.reference import Reference
from mdrt.export.exporter import export
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.heads import HEADS
from mdrt.runtime.heads.maskdiffusion import MaskDiffusionOptions
from mdrt.runtime.segmenter import EMBEDDED

NAMES = ("sky", "water", "boat", "tree")


def pair_for(pipeline: Path, bundle: Path) -> tuple[Reference, Segmenter]:
    manifest = load_bundle(bundle).manifest
    strides = tuple(dict.fromkeys(layer.stride for layer in manifest.attention))
    features = tuple(level.stride for level in manifest.features)
    return Reference(pipeline, features, strides), Segmenter(bundle)


@pytest.fixture(scope="module")
def load(
    sd2: Path, storybook: Path, workspace: Path
) -> Callable[[str], tuple[Reference, Segmenter]]:
    """Reference and segmenter of a model by its name, each loaded once."""

    @cache
    def pair_of(name: str) -> tuple[Reference, Segmenter]:
        if name == "embedded":
            return pair_for(storybook, EMBEDDED)
        bundle = workspace / "chain.bundle"
        export(sd2, bundle)
        return pair_for(sd2, bundle)

    return pair_of


@pytest.fixture(params=["embedded", "sd2"])
def pair(
    request: pytest.FixtureRequest, load: Callable[[str], tuple[Reference, Segmenter]]
) -> tuple[Reference, Segmenter, NDArray[np.uint8]]:
    """Reference and segmenter of one model, and a picture of its native size."""
    reference, segmenter = load(request.param)
    return reference, segmenter, render(11, size=segmenter.manifest.image.native_size).image


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("pooling", ["exp", "softmax"])
def test_named_labels_are_the_references(pair, mode, pooling):
    reference, segmenter, image = pair
    # Eq. 5 and 6 as they are, over all names, whatever the bundle recommends
    ours = segmenter(image, NAMES, **vars(MaskDiffusionOptions(mode=mode, pooling=pooling)))
    noise = segmenter.bundle.noise()
    theirs = reference.segment(image, NAMES, noise, mode=mode, pooling=pooling, timestep=0)
    assert len(np.unique(theirs)) > 1
    assert (ours.labels == theirs).mean() >= 0.999


@pytest.mark.parametrize(
    ("model", "method", "k", "seed"),
    [
        ("embedded", "spectral", 3, 11),
        ("embedded", "spectral", 5, 15),
        ("embedded", "kmeans", 3, 11),
        ("embedded", "kmeans", 4, 3),
        ("sd2", "spectral", 3, 11),
        ("sd2", "kmeans", 3, 11),
    ],
)
def test_unnamed_segments_are_the_references(load, model, method, k, seed):
    """The clusters are an optimum of the reference's k-means too, no worse than what it finds by
    itself, and the labels that follow from them are the same in both modes.

    Which of several optima is found is not guaranteed: both sides draw their own starts, and a
    scene can have optima within 1e-5 of each other that differ in up to 0.5 % of the pixels.
    """
    reference, segmenter = load(model)
    image = render(seed, size=segmenter.manifest.image.native_size).image
    ours = {
        mode: segmenter(image, segments=k, head=method, **vars(HEADS[method].options(mode=mode)))
        for mode in ("paper", "released")
    }
    clusters = torch.from_numpy(ours["paper"].weights.values.argmax(axis=0).ravel())
    noise = segmenter.bundle.noise()
    features, points = reference.points(image, k, noise, method=method, timestep=0)
    settled, _, inertia = naive.lloyd(points, means(points, clusters, k))
    assert (settled == clusters).double().mean() >= 0.999
    some = points[::7]  # 100 columns: every seventh point is spread over all of them
    _, _, best = naive.lloyd(points, means(some, naive.kmeans(some, k, restarts=8), k))
    assert inertia <= best * (1 + 1e-4)
    for mode, result in ours.items():  # each in the order of its own shares
        own = torch.from_numpy(result.weights.values.argmax(axis=0).ravel())
        assert len(torch.unique(torch.stack([own, settled]), dim=1).T) == k  # the same, renamed
        expected = reference.assign_clusters(features, own, image.shape[:2], mode)
        assert (result.labels == expected).mean() >= 0.999


def means(points: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """(k, d): the mean point of each cluster."""
    return torch.stack([points[labels == c].mean(dim=0) for c in range(k)])
