"""Image in, labels out: the exported bundle against the naive PyTorch reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mdrt import Options, Segmenter
from mdrt.benchmarks.reference import Reference
from mdrt.benchmarks.scenes.renderer import render
from mdrt.export.exporter import export
from mdrt.runtime.bundle import load_bundle
from mdrt.runtime.segmenter import EMBEDDED

PIPELINE = Path(__file__).parents[2] / "benchmarks" / "scenes" / "storybook"
NAMES = ("sky", "water", "boat", "tree")


def pair_for(pipeline: Path, bundle: Path) -> tuple[Reference, Segmenter]:
    manifest = load_bundle(bundle).manifest
    strides = tuple(dict.fromkeys(layer.stride for layer in manifest.attention))
    features = tuple(level.stride for level in manifest.features)
    return Reference(pipeline, features, strides), Segmenter(bundle)


@pytest.fixture(scope="module", params=["embedded", "sd2"])
def pair(
    request: pytest.FixtureRequest, sd2: Path, workspace: Path
) -> tuple[Reference, Segmenter, NDArray[np.uint8]]:
    """Reference and segmenter of one model, and a picture of its native size."""
    if request.param == "embedded":
        reference, segmenter = pair_for(PIPELINE, EMBEDDED)
    else:
        bundle = workspace / "chain.bundle"
        export(sd2, bundle)
        reference, segmenter = pair_for(sd2, bundle)
    size = segmenter.manifest.native_size
    return reference, segmenter, render(11, size=size).image


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("pooling", ["exp", "softmax"])
def test_named_labels_are_the_references(pair, mode, pooling):
    reference, segmenter, image = pair
    ours = segmenter(image, NAMES, options=Options(mode=mode, pooling=pooling, timestep=0))
    noise = segmenter.bundle.noise()
    theirs = reference.segment(image, NAMES, noise, mode=mode, pooling=pooling, timestep=0)
    assert len(np.unique(theirs)) > 1
    assert (ours.labels == theirs).mean() >= 0.999


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_unnamed_segments_are_the_references(pair, method):
    reference, segmenter, image = pair
    # Few segments: there are many k-means partitions into more that are equally good within 1 %.
    k = 2 if (segmenter.manifest.model_id, method) == ("storybook", "kmeans") else 3
    ours = segmenter(image, segments=k, options=Options(method=method, mode="paper", timestep=0))
    noise = segmenter.bundle.noise()
    theirs = reference.unsupervised(image, k, noise, method=method, timestep=0)
    overlap = np.zeros((k, k), dtype=int)
    np.add.at(overlap, (ours.labels.ravel(), theirs.ravel()), 1)  # numbered differently
    agreed = overlap[linear_sum_assignment(overlap, maximize=True)].sum()
    assert agreed / image[..., 0].size >= 0.999
