"""Cuts of the UNet: a head that reads less runs less, and sees the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mdrt
from mdrt.runtime.bundle.contract import AttentionOutput, FeatureOutput
from mdrt.runtime.bundle.cuts import Cut, cuts
from mdrt.runtime.errors import MdrtError
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.base import Session
from mdrt.runtime.sessions.ort import OrtSession

Passes = Callable[[], list[str]]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Which graph of the UNet ran since the last call."""
    ran: list[str] = []
    infer = Session.infer

    def counted(self: Session, *arguments: Any) -> Any:
        if self.path.name.startswith("unet."):
            ran.append(self.path.name)
        return infer(self, *arguments)

    monkeypatch.setattr(Session, "infer", counted)

    def since() -> list[str]:
        found = ran.copy()
        ran.clear()
        return found

    return since


def outputs(*strides: int, encoder: bool = True) -> Cut:
    """What a UNet gives out that has features at 64 and 16, and layers of these strides."""
    return Cut(
        "whole",
        tuple(FeatureOutput(f"features_s{stride}", stride, 8) for stride in (64, 16)),
        tuple(AttentionOutput(f"logits_s{stride}_0", stride, 8, 8, 64, "") for stride in strides),
        (),
        (FeatureOutput("encoder_s32", 32, 8),) if encoder else (),
        (),
        "unet.onnx",
    )


def test_which_cuts_there_are() -> None:
    fine = outputs(64, 32, 8)
    encoder, features, whole = cuts(fine)
    assert encoder.outputs == ("encoder_s32",)
    coarse = ("features_s64", "features_s16", "logits_s64_0", "logits_s32_0")
    assert features.outputs == (*coarse, "queries_s64_0", "queries_s32_0", "encoder_s32")
    assert whole == fine
    assert [cut.name for cut in cuts(outputs(64, 16))] == ["encoder", "whole"]
    assert [cut.name for cut in cuts(outputs(8, encoder=False))] == ["features", "whole"]
    graphs = ["unet.encoder.onnx", "unet.features.onnx", "unet.onnx"]
    assert [cut.graph for cut in cuts(fine)] == graphs


def test_a_cut_gives_what_the_whole_gives_and_does_less() -> None:
    """Bit for bit, by fewer nodes, over one file of weights."""
    random = np.random.default_rng(0)
    feeds = {
        "sample": random.standard_normal((2, 8, 16, 24), dtype=np.float32),
        "timestep": np.array([0, 500]),
        "encoder_hidden_states": random.standard_normal((2, 40, 128), dtype=np.float32),
    }
    seen, nodes = {}, {}
    for name in ("unet.encoder.onnx", "unet.onnx"):
        with OrtSession(EMBEDDED / name, profile=True) as session:
            seen[name] = session.infer(feeds)
            _, events = session.end_profile()
            nodes[name] = sum(event.get("cat") == "Node" for event in events)
    for name, values in seen["unet.encoder.onnx"].items():
        np.testing.assert_array_equal(values, seen["unet.onnx"][name])
    assert 0 < nodes["unet.encoder.onnx"] < nodes["unet.onnx"] / 2
    assert (EMBEDDED / "unet.encoder.onnx").stat().st_size < 1e5


@pytest.mark.parametrize("head", ["spectral", "kmeans", "ncut", "multicut"])
def test_segments_of_the_encoder_run_the_encoder_alone(
    picture: NDArray[np.uint8], passes: Passes, head: str
) -> None:
    segmenter = mdrt.Segmenter()
    look = segmenter.look(picture)
    result = look.segments(4, head, features="encoder")
    assert passes() == ["unet.encoder.onnx"]
    assert result.settings["features"] == "encoder"
    assert {0, 1, 2} <= set(np.unique(result.labels)) <= {0, 1, 2, 3}  # a small one may win nowhere
    look.segments(3, head, features="encoder")
    assert passes() == []
    decoder = look.segments(4, head, features="decoder")
    assert passes() == ["unet.onnx"]
    assert not np.array_equal(decoder.labels, result.labels)
    if decoder.settings["features"] == segmenter.settle(head).features:  # by default
        np.testing.assert_array_equal(look.segments(4, head).labels, decoder.labels)


def test_a_pass_that_went_further_serves_the_encoder_too(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], passes: Passes
) -> None:
    look = segmenter.look(picture)
    look.segments(4)
    assert passes() == ["unet.onnx"]
    kept = look.segments(4, features="encoder")
    assert passes() == []
    fresh = segmenter(picture, segments=4, features="encoder")
    assert passes() == ["unet.encoder.onnx"]
    np.testing.assert_array_equal(kept.labels, fresh.labels)


def test_a_cut_is_opened_when_a_head_first_asks(picture: NDArray[np.uint8]) -> None:
    with mdrt.Segmenter() as segmenter:
        unet = segmenter.network.passes

        def opened() -> list[str]:
            return [session.path.name for session in unet.sessions]

        assert opened() == ["unet.onnx"]
        segmenter(picture, segments=3, features="encoder")
        assert opened() == ["unet.onnx", "unet.encoder.onnx"]
        sessions = segmenter.network.sessions
    for session in sessions:
        with pytest.raises(MdrtError, match="is closed"):
            session.infer({})


def test_several_tiles(segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]) -> None:
    taps = segmenter.look(np.tile(picture, (2, 3, 1))).taps
    assert len(taps.canvas.origins) > 1
    (grid,) = taps.features(0, taps.empty, encoder=True)
    (output,) = segmenter.manifest.encoder
    rows, columns = (side // output.stride for side in taps.canvas.size)
    assert grid.values.shape == (output.channels, rows, columns)


def test_a_bundle_without_its_cut(tmp_path: Path) -> None:
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    (bundle / "unet.encoder.onnx").unlink()
    with pytest.raises(MdrtError, match=r"unet\.encoder\.onnx is missing from the bundle"):
        mdrt.Segmenter(bundle)
