"""The call of Hugging Face's image-segmentation pipeline."""

import ast
import importlib.util
import inspect
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mdrt
from mdrt.runtime.pipeline import ImageSegmentation

NAMES = ["sky", "water", "boat"]


@pytest.fixture(scope="module")
def pipe(segmenter):
    return mdrt.pipeline("image-segmentation", model=segmenter, candidate_labels=NAMES)


def test_what_comes_out_is_what_theirs_gives(pipe, segmenter, picture):
    found, result = pipe(picture), segmenter(picture, NAMES)
    assert isinstance(found, list)
    assert [entry["label"] for entry in found] == [n for n in NAMES if n in result.found]
    for entry in found:
        assert set(entry) == {"score", "label", "mask"}
        assert entry["mask"].mode == "L"
        assert entry["mask"].size == (256, 256)
        inside = result.labels == NAMES.index(entry["label"])
        np.testing.assert_array_equal(np.asarray(entry["mask"]), inside * 255)
        assert entry["score"] == pytest.approx(result.confidence[inside].mean(), abs=1e-5)
    semantic = pipe(picture, subtask="semantic")
    assert [entry["score"] for entry in semantic] == [None] * len(found)


def test_pictures_of_every_kind(pipe, picture, picture_file):
    wanted = [np.asarray(entry["mask"]) for entry in pipe(picture)]
    file = io.BytesIO(picture_file.read_bytes())
    kinds = [picture_file, str(picture_file), Image.open(picture_file), file, file.getvalue()]
    for found in [*map(pipe, kinds[:3]), *pipe(kinds[3:])]:
        np.testing.assert_array_equal([np.asarray(entry["mask"]) for entry in found], wanted)


def test_bgr_is_never_guessed(pipe, picture):
    """The blue sky turned orange is another picture."""
    scores = [
        [entry["score"] for entry in pipe(np.ascontiguousarray(one))]
        for one in (picture, picture[..., ::-1])
    ]
    assert scores[0] != scores[1]


def test_several_pictures(pipe, picture):
    assert len(pipe([picture, picture])) == 2
    assert pipe([]) == []
    assert len(pipe((picture,))) == 1
    lazily = pipe(one for one in [picture])
    assert next(lazily)[0]["label"] in NAMES


def test_names_and_settings_of_a_call(pipe, picture):
    assert {entry["label"] for entry in pipe(picture, candidate_labels=["sky", "grass"])} <= {
        "sky", "grass",
    }  # fmt: skip
    assert len(pipe(picture, segments=3)) == 3
    whole = sum(np.asarray(entry["mask"], bool) for entry in pipe(picture, threshold=0.6))
    assert whole.max() == 1
    assert whole.min() == 0


def test_names_that_the_model_knows(segmenter, picture):
    found = mdrt.pipeline(model=segmenter)(picture)
    assert {entry["label"] for entry in found} <= set(segmenter.manifest.classes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe, picture: pipe(picture, subtask="panoptic"), "'semantic'"),
        (lambda pipe, picture: pipe(picture, mask_threshold=0.5), "no setting mask_threshold"),
        (lambda pipe, picture: pipe("nowhere.png"), "does not exist"),
        (lambda pipe, picture: pipe(3), "of type int"),
        (lambda pipe, picture: mdrt.pipeline("text-generation"), "expected 'image-segmentation'"),
        (lambda pipe, picture: mdrt.pipeline(model=pipe.segmenter, threads=1), "not yet made"),
    ],
)
def test_what_it_refuses(pipe, picture, call, words):
    with pytest.raises(mdrt.MdrtError, match=words):
        call(pipe, picture)


def test_the_call_is_spelled_as_theirs():
    """Theirs is read, not imported, which takes seconds."""
    found = importlib.util.find_spec("transformers")
    if found is None:
        pytest.skip("needs transformers")
    folder = Path(found.origin).parent / "pipelines"
    texts = [(folder / name).read_text() for name in ("__init__.py", "image_segmentation.py")]
    calls = [
        [argument.arg for argument in node.args.args]
        for text, name in zip(texts, ("pipeline", "__call__"), strict=True)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert calls[0][:2] == list(inspect.signature(mdrt.pipeline).parameters)[:2]
    ours = list(inspect.signature(ImageSegmentation.__call__).parameters)
    assert all(call[:2] == ours[:2] for call in calls[-1:])
