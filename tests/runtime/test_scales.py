"""Features that are blended with those of the picture at other sizes."""

from __future__ import annotations

import numpy as np
import pytest

import mdrt
from mdrt import kernels
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.runtime.look.taps import Taps
from mdrt.runtime.look.tiles import plan

IMAGE = render(5, size=384).image  # one tile of the native size


@pytest.fixture(scope="module")
def segmenter() -> mdrt.Segmenter:
    return mdrt.Segmenter()


def features(taps: Taps, **asked: bool) -> list[kernels.Grid]:
    return taps.features(100, taps.empty, **asked)


@pytest.mark.parametrize("encoder", [False, True])
def test_they_are_blended_with_what_larger_and_smaller_tiles_show(
    segmenter: mdrt.Segmenter, encoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = segmenter.look(IMAGE).taps
    found = features(taps, encoder=encoder, scales=True)
    views = [features(taps, encoder=encoder)]
    for side in (320, 512):  # 0.75 and 1.4 of the native 384, in the model's steps of 64
        other = segmenter.look(IMAGE).taps
        monkeypatch.setattr(other, "canvas", plan((384, 384), side, 64, side))
        assert other.canvas.tile == other.canvas.content == (side, side)
        views.append(features(other, encoder=encoder))
    for level, *expected in zip(found, *views, strict=True):
        np.testing.assert_allclose(level.values, kernels.blended(expected).values, atol=1e-5)


def test_what_was_seen_is_kept_apart_and_counted(segmenter: mdrt.Segmenter) -> None:
    look = segmenter.look(IMAGE)
    plain = look.segments(4)
    held = look.taps.nbytes
    scaled = look.segments(4, scales=True)
    assert look.taps.nbytes > held
    assert (scaled.labels != plain.labels).any()
    np.testing.assert_array_equal(look.segments(4).labels, plain.labels)
    again = segmenter.look(IMAGE).segments(4, scales=True)
    np.testing.assert_array_equal(again.labels, scaled.labels)
    assert scaled.settings["scales"] is True
