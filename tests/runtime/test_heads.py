"""Heads: options declared once; a head that is added appears everywhere by its registry line."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import mdrt
from mdrt.cli import main
from mdrt.kernels import Grid
from mdrt.runtime.bundle.loading import load_bundle, write_manifest
from mdrt.runtime.heads import HEADS, Head, HeadOptions, Reading, declared, option, parse
from mdrt.runtime.look.taps import Taps
from mdrt.runtime.look.words import EncodedText
from mdrt.runtime.segmenter import EMBEDDED


@dataclass(frozen=True)
class ToyOptions(HeadOptions):
    """One of every type."""

    shape: Literal["stripes", "rows"] = option("stripes", "which way the stripes run")
    width: int = option(2, "cells of a stripe", least=1, most=8)
    gain: float = option(1.0, "of every score", above=0, below=10)
    bright: bool = option(False, "turn the stripes round")
    feature_strides: tuple[int, ...] | None = option(None, "which features are looked at")


def read(taps: Taps, options: ToyOptions, text: EncodedText) -> Reading:
    """Stripes, by turns of every name."""
    (level, *_) = taps.features(options.timestep, text, options.feature_strides)
    rows, columns = level.size
    count = len(text.prompts.classes)
    place = np.arange(columns if options.shape == "stripes" else rows) // options.width % count
    line = np.eye(count, dtype=np.float32)[place].T * options.gain
    scores = line[:, None, :] if options.shape == "stripes" else line[:, :, None]
    grid = Grid(np.ascontiguousarray(np.broadcast_to(scores, (count, rows, columns))))
    return Reading([grid], grid)


TOY = Head(
    "toy", "named", "stripes, whatever is in the picture", "tests", ToyOptions, ("features",), read
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setitem(HEADS, "toy", TOY)  # type: ignore[arg-type]
    return TOY


def test_options_are_declared_with_types_ranges_and_help() -> None:
    by_name = {d.name: d for d in declared(ToyOptions)}
    assert list(by_name) == [
        "timestep", "refine", "mirror", "background", "threshold", "shape", "width", "gain",
        "bright", "feature_strides",
    ]  # fmt: skip
    assert [d.type for d in by_name.values()] == [
        "whole number", "choice", "yes/no", "choice", "number", "choice", "whole number", "number",
        "yes/no", "strides",
    ]  # fmt: skip
    assert by_name["width"].range == "whole number from 1 to 8"
    assert by_name["gain"].range == "number above 0 to below 10"
    assert by_name["timestep"].range == "whole number from 0"
    assert by_name["shape"].choices == ("stripes", "rows")
    for head in HEADS.values():
        for d in declared(head.options):
            assert d.help
            assert d.parse(d.shown(d.default)) == d.default


def test_a_threshold_is_a_constant_background() -> None:
    assert ToyOptions().void_below == 0
    constant = ToyOptions(threshold=0.3)
    assert (constant.background, constant.void_below) == ("constant", 0.3)
    assert ToyOptions(**vars(constant)) == constant
    level = ToyOptions(background="complement").void_below
    assert (1 - level) ** 2 == pytest.approx(level)
    for background, threshold in (("constant", 0.0), ("complement", 0.3)):
        with pytest.raises(mdrt.MdrtError, match=f"with background {background}, expected"):
            ToyOptions(background=background, threshold=threshold)


def test_texts_become_values() -> None:
    texts = {"shape": "rows", "width": "3", "gain": "0.5", "bright": "yes", "refine": "pamr"}
    values = parse(TOY, texts | {"feature_strides": "16,64"})
    assert values == {
        "shape": "rows",
        "width": 3,
        "gain": 0.5,
        "bright": True,
        "refine": "pamr",
        "feature_strides": (64, 16),
    }
    assert vars(ToyOptions(**values)) == {
        "timestep": 0,
        "mirror": False,
        "background": "none",
        "threshold": 0.0,
        **values,
    }  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("shape", "dots", "shape is 'dots', expected one of stripes, rows"),
        ("width", "0", "width is 0, expected whole number from 1 to 8"),
        ("width", "2.5", "width is '2.5', expected whole number"),
        ("gain", "10", "gain is 10.0, expected number above 0 to below 10"),
        ("gain", "nan", "gain is nan"),
        ("gain", "much", "gain is 'much'"),
        ("bright", "maybe", "bright is 'maybe', expected yes or no"),
        ("feature_strides", "64,x", "feature_strides is '64,x', expected all, or strides"),
        (
            "colour",
            "red",
            "head toy has no setting colour; it has timestep, refine, mirror, background",
        ),
    ],
)
def test_wrong_texts_are_named(name: str, text: str, words: str) -> None:
    with pytest.raises(mdrt.MdrtError, match=words.replace(".", r"\.")):
        parse(TOY, {name: text})


@pytest.mark.parametrize("wrong", [None, "1", 1.5, True, [1], float("inf")])
def test_values_of_another_type_are_refused(wrong: Any) -> None:
    with pytest.raises(mdrt.MdrtError, match="width is "):
        ToyOptions(width=wrong)


def test_a_number_is_no_choice_and_no_yes() -> None:
    for name in ("shape", "bright", "feature_strides"):
        with pytest.raises(mdrt.MdrtError, match=f"{name} is 1, expected"):
            ToyOptions(**{name: 1})


def test_numbers_of_numpy_are_numbers() -> None:
    made = ToyOptions(width=np.int64(3), gain=np.float32(0.5), bright=np.bool_(True))  # type: ignore[arg-type]
    assert (made.width, made.gain, made.bright) == (3, 0.5, True)
    assert json.loads(json.dumps(vars(made)))["width"] == 3


def _recommending(folder: Path, recommended: dict[str, dict[str, Any]]) -> Path:
    bundle = Path(shutil.copytree(EMBEDDED, folder / "bundle"))
    manifest = load_bundle(bundle).manifest
    values = vars(manifest) | {"recommended": recommended, "files": dict(manifest.files)}
    values["created_by"] = dict(manifest.created_by)
    write_manifest(bundle, type(manifest)(**values))
    return bundle


def test_what_goes_with_a_recommendation_holds_with_it_alone(tmp_path: Path) -> None:
    own = {"pooling": "softmax", "map_power": 3.0, "presence": 0.1, "timestep": 5}
    segmenter = mdrt.Segmenter(_recommending(tmp_path, {"maskdiffusion": own}))
    assert segmenter.settle("maskdiffusion").map_power == 3
    assert segmenter.settle("maskdiffusion", pooling="softmax").presence == 0.1
    other = segmenter.settle("maskdiffusion", pooling="logit")
    assert (other.map_power, other.presence, other.timestep) == (1, 0, 5)
    assert segmenter.settle("attention").timestep == 0  # nothing is recommended of it


@pytest.mark.parametrize(
    ("recommended", "words"),
    [
        ({"maskdiffusion": {"sharpness": 2.0}}, "maskdiffusion .*has no setting sharpness"),
        ({"spectral": {"affinity_power": 4.0}}, "spectral .*give affinity cells too"),
        ({"attention": {"timestep": 1000}}, "attention .*timestep is 1000, expected 0 to 999"),
        ({"kmeans": {"mode": "fast"}}, "kmeans .*mode is 'fast'"),
    ],
)
def test_a_bundle_that_recommends_what_no_head_takes_is_refused(
    tmp_path: Path, recommended: dict[str, Any], words: str
) -> None:
    with pytest.raises(mdrt.BundleError, match=words + ".*export it again"):
        mdrt.Segmenter(_recommending(tmp_path, recommended))


def test_recommendations_for_another_versions_head_are_left_alone(tmp_path: Path) -> None:
    segmenter = mdrt.Segmenter(_recommending(tmp_path, {"newer": {"depth": 3}}))
    assert segmenter.settle("spectral").timestep == 0


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("name", ["maskdiffusion", "attention", "spectral", "kmeans", "ncut"])
def test_a_head_says_whether_it_needs_the_empty_prompt(
    segmenter: mdrt.Segmenter,
    picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mode: str,
) -> None:
    """Else a command would encode it for nothing, or load the text encoder a second time."""
    encode, asked = segmenter.network.words.encode, []

    def noted(classes: Any) -> EncodedText:
        asked.append(classes)
        return encode(classes)

    monkeypatch.setattr(segmenter.network.words, "encode", noted)
    head, look = HEADS[name], segmenter.look(picture)
    if head.kind == "named":
        look.segment(["sky", "sand"], head, mode=mode)
    else:
        look.segments(2, head, mode=mode)
    assert head.wordless(segmenter.settle(head, mode=mode)) == (None in asked)


def test_a_head_that_is_added_segments(
    toy: Head, segmenter: mdrt.Segmenter, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    result = segmenter(picture, ["sky", "sand"], head="toy", width=4)
    assert result.settings["head"] == "toy"
    assert result.settings["width"] == 4
    assert result.labels[0, 0] == 0
    assert set(np.unique(result.labels)) == {0, 1}
    assert mdrt.Segmenter(_recommending(tmp_path, {"toy": {"width": 4}})).settle("toy").width == 4


def test_a_head_that_is_added_is_on_the_command_line_and_in_the_record(
    toy: Head, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "scene.png")
    call = ["segment", str(tmp_path / "scene.png"), "-o", str(tmp_path / "out"), "--json"]
    call += ["--classes", "sky, sand", "--head", "toy", "--refine", "guided"]
    done = CliRunner().invoke(main, [*call, "--set", "shape=rows", "--set", "width=4"])
    assert done.exit_code == 0, done.output
    settings = json.loads(done.stdout)["settings"]
    assert settings["head"] == "toy"
    assert (settings["width"], settings["shape"], settings["refine"]) == (4, "rows", "guided")
    assert json.loads((tmp_path / "out" / "scene.json").read_text())["settings"] == settings
    wrong = CliRunner().invoke(main, [*call, "--set", "width=9"])
    assert wrong.exit_code != 0
    assert "width is 9, expected whole number from 1 to 8" in wrong.output


def test_a_head_that_is_added_is_listed_and_documented(toy: Head) -> None:
    listed = CliRunner().invoke(main, ["heads"])
    assert listed.exit_code == 0, listed.output
    assert "toy" in listed.stdout
    one = CliRunner().invoke(main, ["heads", "toy", "--json"])
    assert '"width"' in one.stdout
    page = CliRunner().invoke(main, ["heads", "--markdown"])
    for words in ("toy", "which way the stripes run", "whole number from 1 to 8"):
        assert words in page.stdout


def test_a_head_that_is_added_is_evaluated(toy: Head, tmp_path: Path) -> None:
    call = ["eval", "run", "scenes", "--limit", "2", "--head", "toy", "--set", "width=4"]
    done = CliRunner().invoke(main, [*call, "-o", str(tmp_path / "results"), "--json"])
    assert done.exit_code == 0, done.output
    assert "toy" in done.stdout
    assert "toy" in CliRunner().invoke(main, ["eval", "list"]).stdout
