"""A look: what was computed is not computed again, and is let go when asked."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import mdrt
from mdrt.cli import main
from mdrt.runtime.look.kept import Kept, nbytes
from mdrt.runtime.sessions.base import Session

NAMES = ("sky", "water", "boat")
Runs = Callable[[], list[str]]


@pytest.fixture
def runs(segmenter: mdrt.Segmenter, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Which of vae and unet ran since the last call."""
    ran: list[str] = []
    network = segmenter.network
    for name, session in (
        ("vae", network.vae),
        ("unet", network.passes.session(network.passes.longest)),
    ):
        infer = session.infer

        def counted(*arguments: Any, name: str = name, infer: Any = infer) -> Any:
            ran.append(name)
            return infer(*arguments)

        monkeypatch.setattr(session, "infer", counted)

    def since() -> list[str]:
        found = ran.copy()
        ran.clear()
        return found

    return since


def test_nothing_runs_before_a_head_asks(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    assert look.size == picture.shape[:2]
    assert runs() == []


def test_a_second_list_costs_no_vae(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    look.segment(NAMES, mode="released")
    assert runs() == ["vae", "unet", "unet"]  # features of no words, attention of these
    look.segment(("tree", "sky"), mode="released")
    assert runs() == ["unet"]
    look.segment(("tree", "sky"), mode="paper")
    assert runs() == ["unet"]
    look.segment(NAMES, mode="released")
    assert runs() == []


def test_a_second_head_on_the_same_taps_costs_no_network(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    for mode in ("paper", "released"):
        look.segment(NAMES, mode=mode, timestep=100)
        assert runs()
        look.segment(NAMES, "attention", mode=mode, timestep=100)
        look.segment(NAMES, mode=mode, timestep=100, refine="guided", map_power=1.0, presence=0.0)
        assert runs() == []
    look.segments(3, timestep=100)
    look.segments("auto", "kmeans", timestep=100)
    assert runs() == []  # released features are of the empty prompt too
    look.segments(3, timestep=101)
    assert runs() == ["unet"]


def test_attention_first_then_features_is_one_pass_too(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    look.segment(NAMES, "attention", mode="paper")
    look.segment(NAMES, mode="paper")
    assert runs() == ["vae", "unet"]


def test_a_look_gives_what_a_call_of_its_own_gives(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]
) -> None:
    look = segmenter.look(picture)
    for mode in ("paper", "released", "paper"):
        for names in (NAMES, ("water", "sky"), [("water", "sky"), "boat"]):
            kept = look.segment(names, mode=mode)
            fresh = segmenter(picture, names, mode=mode)
            np.testing.assert_array_equal(kept.labels, fresh.labels)
            np.testing.assert_array_equal(kept.confidence, fresh.confidence)
            assert kept.classes == fresh.classes
    kept, fresh = look.segments(3), segmenter(picture, segments=3)
    np.testing.assert_array_equal(kept.labels, fresh.labels)


def test_timings_are_of_what_ran(segmenter: mdrt.Segmenter, picture: NDArray[np.uint8]) -> None:
    look = segmenter.look(picture)
    assert {"image", "vae", "unet"} <= look.segment(NAMES).timings.keys()
    assert not {"image", "vae", "unet"} & look.segment(NAMES).timings.keys()


def test_what_was_released_is_computed_again(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    first = look.segment(NAMES, mode="paper")
    look.release()
    runs()
    again = look.segment(NAMES, mode="paper")
    assert runs() == ["vae", "unet"]
    np.testing.assert_array_equal(first.labels, again.labels)


def test_kept_is_bounded_and_the_longest_unused_gives_way() -> None:
    kept = Kept(100)
    for key in "abc":
        kept.put(key, (np.zeros(40, np.uint8), None))
        kept.get("a")
    assert kept.get("b") is None
    assert kept.nbytes == 80
    kept.put("large", np.zeros(1000, np.uint8))  # stays, for it is in use
    assert kept.get("large") is not None
    assert kept.get("a") is None
    kept.clear()
    assert kept.nbytes == 0
    assert nbytes([np.zeros(3, np.float32), "text", 7]) == 12


def test_a_bounded_look_computes_again_what_gave_way(
    segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], runs: Runs
) -> None:
    look = segmenter.look(picture)
    look.taps._kept.most_bytes = 1
    first = look.segment(NAMES, mode="released")
    runs()
    again = look.segment(NAMES, mode="released")
    assert "unet" in runs()
    np.testing.assert_array_equal(first.labels, again.labels)


def test_a_closed_segmenter_says_so(picture: NDArray[np.uint8]) -> None:
    with mdrt.Segmenter() as segmenter:
        look = segmenter.look(picture)
        look.segment(NAMES)
    with pytest.raises(mdrt.MdrtError, match=r"onnx is closed; load it again"):
        look.segment(NAMES, timestep=7)


@pytest.mark.parametrize(
    "options", [[], ["--set", "mode=paper"], ["--unsupervised"], ["--head", "attention"]]
)
def test_the_command_reaches_the_session_in_eight_calls(
    picture: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "scene.png")
    infer, depths = Session.infer, {}

    def traced(self: Session, *arguments: Any) -> Any:
        frames = [frame.name for frame in traceback.extract_stack()]
        if "segment_command" in frames:
            depths[self.path.name] = frames[frames.index("segment_command") + 1 :]
        return infer(self, *arguments)

    monkeypatch.setattr(Session, "infer", traced)
    call = ["segment", str(tmp_path / "scene.png"), "-o", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert {name.partition(".")[0] for name in depths} >= {"unet", "vae_encoder"}
    for frames in depths.values():
        assert len(frames) <= 8, frames  # the last is this test's own stand-in for infer
