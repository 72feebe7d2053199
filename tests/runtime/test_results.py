"""A result in Python: saved, shown, streamed; what it warns of."""

import io
import json
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import mdrt
from mdrt.kernels import void
from mdrt.runtime.pictures.palette import palette
from mdrt.runtime.segmenter import EMBEDDED

NAMES = ["sky", "water", "boat"]


@pytest.fixture(scope="module")
def result(segmenter, picture):
    return segmenter(picture, NAMES)


def test_a_result_tells_what_was_found(result, picture):
    assert result.image is picture
    assert result.source is None
    assert result.model == "storybook"
    shares = dict(zip(result.classes, result.shares, strict=True))
    assert list(result.found) == sorted(result.found, key=lambda name: -shares[name])
    assert set(result.found) == {name for name in NAMES if shares[name]}
    assert "256×256" in repr(result)
    for name in result.found:
        assert f"{name} {shares[name]:.0%}" in repr(result)


@pytest.mark.parametrize("path", ["new/beach", "new/beach.png", "new/v1.2", "there"])
def test_save_writes_what_the_command_writes(segmenter, picture_file, tmp_path, path):
    (tmp_path / "there").mkdir()
    result = segmenter(picture_file, NAMES)
    files = result.save(tmp_path / path)
    stem = {"new/beach.png": "new/beach", "there": "there/scene"}.get(path, path)
    assert files == {
        "labels": str(tmp_path / f"{stem}.png"),
        "overlay": str(tmp_path / f"{stem}.overlay.png"),
        "record": str(tmp_path / f"{stem}.json"),
    }
    np.testing.assert_array_equal(np.asarray(Image.open(files["labels"])), result.labels)
    record = json.loads((tmp_path / f"{stem}.json").read_text())
    assert record["files"] == files
    assert record["image"] == str(picture_file)
    assert [entry["name"] for entry in record["classes"]] == NAMES
    assert record["settings"]["prompts"] == ["sky and water and boat"]


def test_save_without_an_overlay_and_with_a_background(result, tmp_path):
    files = result.save(tmp_path / "x", background="sky", overlay=False)
    assert files.keys() == {"labels", "record"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png"]
    entries = json.loads((tmp_path / "x.json").read_text())["classes"]
    assert entries[0]["colour"] == "#000000"


def test_one_palette_everywhere(result):
    colours = palette(NAMES)
    entries = result.record()["classes"]
    assert [entry["colour"] for entry in entries] == [
        "#" + bytes(c.tolist()).hex() for c in colours
    ]
    flat = np.asarray(result.label_image().convert("RGB"))
    np.testing.assert_array_equal(flat, colours[result.labels])


def test_a_notebook_shows_the_overlay(result):
    shown = Image.open(io.BytesIO(result._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.overlay()))
    assert shown.width > 256


@pytest.mark.parametrize("head", ["maskdiffusion", "attention"])
@pytest.mark.parametrize("refine", ["none", "guided", "pamr"])
def test_a_threshold_leaves_pixels_without_a_class(segmenter, picture, head, refine):
    look = segmenter.look(picture)
    whole = look.segment(NAMES, head, refine=refine)
    middle = float(np.median(whole.confidence))
    cut = look.segment(NAMES, head, refine=refine, threshold=middle)
    below = whole.confidence < np.float32(middle)
    assert 0.3 < below.mean() < 0.7
    np.testing.assert_array_equal(cut.labels, np.where(below, 255, whole.labels))
    np.testing.assert_array_equal(cut.confidence, whole.confidence)
    assert void(cut.labels) == 255
    record = cut.record()
    assert record["void"] == below.sum()
    assert sum(entry["pixels"] for entry in record["classes"]) == (~below).sum()
    assert cut.shares.sum() == pytest.approx((~below).mean())
    assert np.asarray(cut.label_image())[below].min() == 255
    assert cut.overlay().width > 256


def test_the_squared_complement_leaves_what_it_is_higher_than(segmenter, picture):
    look = segmenter.look(picture)  # a head whose maps lie in [0, 1], and few names
    settings = {"recipe": "diffsegmenter", "refine": "none"}
    plain = look.segment(["sky", "tree"], "refined", **settings)
    cut = look.segment(["sky", "tree"], "refined", background="complement", **settings)
    bare = (1 - plain.confidence) ** 2 > plain.confidence
    assert bare.any()
    np.testing.assert_array_equal(cut.labels, np.where(bare, 255, plain.labels))
    assert cut.settings["background"] == "complement"


def test_a_threshold_above_every_score_leaves_nothing(segmenter, picture):
    cut = segmenter(picture, NAMES, threshold=1e9)
    assert cut.found == ()
    assert "nothing" in repr(cut)
    assert all(entry["confidence"] is None for entry in cut.record()["classes"])


def test_many_classes_leave_room_for_none(segmenter, picture):
    names = [f"sky {i}" for i in range(256)]
    found = segmenter(picture, names, threshold=1e9).labels
    assert found.dtype == np.uint16
    assert (found == 65535).all()


def test_a_stream_gives_what_calls_give(segmenter, picture, picture_file):
    images = [picture, picture_file, picture_file.read_bytes(), Image.open(picture_file)]
    wanted = segmenter(picture, NAMES, refine="none")
    found = list(segmenter.stream(iter(images), NAMES, refine="none"))
    assert len(found) == 4
    for one in found:
        np.testing.assert_array_equal(one.labels, wanted.labels)
    assert [one.source for one in found] == [None, str(picture_file), None, str(picture_file)]
    unnamed = list(segmenter.stream([picture], segments=3, head="kmeans"))
    assert len(unnamed[0].classes) == 3


def test_a_stream_takes_one_picture_ahead(segmenter, picture):
    taken = []

    def images():
        for number in range(4):
            taken.append(number)
            yield picture

    stream = segmenter.stream(images(), ["sky"])
    assert taken == []
    next(stream)
    assert taken == [0, 1]
    stream.close()


def test_a_bad_picture_in_a_stream(segmenter, picture, tmp_path):
    images = [picture, tmp_path / "nope.png", picture]
    stream = segmenter.stream(images, ["sky"])
    next(stream)
    with pytest.raises(mdrt.ImageError, match=r"nope\.png"):
        next(stream)
    kinds = [type(one) for one in segmenter.stream(images, ["sky"], errors="yield")]
    assert kinds == [mdrt.Segmentation, mdrt.ImageError, mdrt.Segmentation]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({}, "either classes"),
        ({"classes": ["sky"], "segments": 3}, "either classes"),
        ({"classes": ["sky"], "sharpness": 3}, "no setting sharpness"),
        ({"classes": ["sky"], "errors": "ignore"}, "'raise' or 'yield'"),
        ({"segments": 0}, "expected 1 to"),
    ],
)
def test_a_wrong_question_is_said_before_any_picture(segmenter, picture, question, words):
    def images():
        yield picture
        raise AssertionError("was read")

    with pytest.raises(mdrt.MdrtError, match=words):
        next(segmenter.stream(images(), **question))


def test_the_embedded_model_says_what_it_is():
    with pytest.warns(
        mdrt.EmbeddedModelWarning, match="drawn scenes only.*mdrt export.*GB"
    ) as told:
        mdrt.Segmenter()
    assert told[0].filename == __file__
    assert "\n" not in str(told[0].message)


def test_other_bundles_do_not(tmp_path):
    shutil.copytree(EMBEDDED, tmp_path / "bundle")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mdrt.Segmenter(tmp_path / "bundle")


def test_names_that_a_model_never_saw(segmenter, picture):
    with pytest.warns(mdrt.UnknownNameWarning, match="never saw zebra, gnu; it knows sky"):
        segmenter(picture, ["sky", "zebra", "gnu"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter.prepare(["sky", ("water", "sea")])
    with pytest.raises(mdrt.PromptError, match="given twice"):
        segmenter.prepare(["sky", "sky"])


def test_threads_may_encode_names_at_once(segmenter):
    """More lists than are kept, so that some give way while others are asked for."""
    lists = [[f"sky {i}", "sea"] for i in range(24)] * 4
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(segmenter.prepare, lists))
    finally:
        sys.setswitchinterval(before)
    for names, text in zip(lists, found, strict=True):
        assert text.prompts.classes == tuple(names)
        again = segmenter.prepare(names).inputs
        assert set(text.inputs) == set(again)
        for name, values in text.inputs.items():
            np.testing.assert_array_equal(values, again[name])


def test_save_never_replaces_the_picture(segmenter, picture_file, monkeypatch):
    before = picture_file.read_bytes()
    monkeypatch.chdir(picture_file.parent)
    result = segmenter(picture_file, NAMES)
    opened = segmenter(Image.open("scene.png"), NAMES)  # relative, by Pillow
    for one, path in ((result, picture_file), (result, "scene"), (result, "."), (opened, "scene")):
        for overwrite in (False, True):
            with pytest.raises(mdrt.OutputError, match="replace the input"):
                one.save(path, overwrite=overwrite)
    assert picture_file.read_bytes() == before
    assert list(picture_file.parent.iterdir()) == [picture_file]


def test_save_replaces_files_of_others_only_if_told(result, tmp_path):
    (tmp_path / "x.png").write_bytes(b"the user's")
    with pytest.raises(mdrt.OutputError, match="no earlier result"):
        result.save(tmp_path / "x")
    assert (tmp_path / "x.png").read_bytes() == b"the user's"
    result.save(tmp_path / "x", overwrite=True)
    result.save(tmp_path / "x")  # its own
    (tmp_path / "x.json").unlink()
    result.save(tmp_path / "x")  # known by the mark in its pictures
    (tmp_path / "x.json").write_text("")
    result.save(tmp_path / "x", overlay=False)
    assert json.loads((tmp_path / "x.json").read_text())["schema"] == 4


def test_the_largest_segment_is_the_first(segmenter, picture):
    look = segmenter.look(picture)
    for head in ("spectral", "kmeans"):
        result = look.segments(5, head, scores=True, refine="none")
        assert list(result.shares) == sorted(result.shares, reverse=True)
        assert result.found[0] == "segment 1"
        np.testing.assert_array_equal(result.scores.argmax(axis=0), result.labels)
        assert len(result.weights.values) == 5


def test_no_pixel_reaches_the_threshold(segmenter, picture):
    with pytest.warns(mdrt.MdrtWarning, match=r"no pixel reaches threshold 5; .* 0\.\d"):
        segmenter(picture, NAMES, threshold=5)


def test_one_picture_is_no_stream(segmenter):
    with pytest.raises(mdrt.MdrtError, match="images is one picture"):
        segmenter.stream("scene.png", NAMES)


def test_a_look_tells_what_it_is_of(segmenter, picture_file):
    assert repr(segmenter.look(picture_file)) == f"<Look at {picture_file}, 256×256>"


def test_a_misspelt_name_is_guessed(segmenter):
    with pytest.warns(mdrt.UnknownNameWarning, match=r"gras \(grass\?\), zebra; it knows"):
        segmenter.prepare(["gras", "zebra", "sky"])
