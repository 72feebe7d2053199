"""What is averaged with the mirrored picture no longer tells left from right."""

from __future__ import annotations

import numpy as np
import pytest

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import render

NAMES = ["sky", "grass", "water", "house", "tree"]


@pytest.fixture(scope="module")
def segmenter() -> mdrt.Segmenter:
    return mdrt.Segmenter()


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("maskdiffusion", {"mode": "paper"}),
        ("maskdiffusion", {"mode": "released"}),
        ("maskdiffusion", {"words": "late"}),
        ("refined", {}),
        ("refined", {"recipe": "iseg"}),
        ("goca", {}),
        ("ncut", {}),
        ("diffseg", {}),
    ],
)
def test_the_mirrored_picture_has_mirrored_labels(
    segmenter: mdrt.Segmenter, head: str, settings: dict[str, str]
) -> None:
    image = render(5, size=384).image  # one tile, no padding
    words = [] if head in ("ncut", "diffseg") else [NAMES]
    ask = mdrt.Look.segment if words else mdrt.Look.segments
    share = {}
    for mirror in (False, True):
        one, other = (
            ask(segmenter.look(picture), *words, head=head, mirror=mirror, **settings).labels
            for picture in (image, np.ascontiguousarray(image[:, ::-1]))
        )
        if not words:  # numbers of segments of equal size may be exchanged
            one, other = (_by_place(labels) for labels in (one, other[:, ::-1]))
            other = other[:, ::-1]
        share[mirror] = np.mean(one == other[:, ::-1])
    assert share[True] > 0.995
    assert share[True] > share[False] or share[False] == 1


def _by_place(labels: np.ndarray) -> np.ndarray:
    """Labels numbered as they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse].reshape(labels.shape)


def test_both_are_kept_apart(segmenter: mdrt.Segmenter) -> None:
    look = segmenter.look(render(5).image)
    plain = look.segment(NAMES)
    assert "unet" in look.segment(NAMES, mirror=True).timings
    again = look.segment(NAMES)
    assert "unet" not in again.timings
    np.testing.assert_array_equal(again.labels, plain.labels)


def test_tiles_are_mirrored_each_for_itself(segmenter: mdrt.Segmenter) -> None:
    """Of a picture of several tiles, what is seen lies where it lay."""
    taps = segmenter.look(render(5, size=640).image).taps
    assert len(taps.canvas.origins) > 1
    (plain,), (both,) = (
        taps.mirrored(mirror).features(400, taps.empty) for mirror in (False, True)
    )

    def alike(left: np.ndarray, right: np.ndarray) -> float:
        products = (left * right).sum(axis=0)
        lengths = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
        return float((products / lengths).mean())

    assert alike(plain.values, both.values) > 0.9
    assert alike(plain.values, both.values[:, :, ::-1]) < 0.8
