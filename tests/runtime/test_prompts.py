"""Spans: every class's tokens decode to its own names, whatever the list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.errors import BundleError, PromptError
from mdrt.runtime.look.prompts import (
    PromptTokenizer,
    load_classes,
    parse_classes,
    read_classes,
    with_background,
)
from mdrt.runtime.segmenter import EMBEDDED

BUNDLE = load_bundle(EMBEDDED)
TEXT = BUNDLE.manifest.texts[0]
TOKENIZER = PromptTokenizer(BUNDLE.path / TEXT.tokenizer, TEXT.tokens)
RAW = Tokenizer.from_file(str(BUNDLE.path / BUNDLE.manifest.texts[0].tokenizer))


def tokens_of(text):
    return RAW.encode(text, add_special_tokens=False).ids


def owned(prompts, owner):
    chosen = prompts.owner == owner
    return prompts.input_ids[prompts.prompt[chosen], prompts.position[chosen]].tolist()


WORDS = st.text(alphabet="abcdefghij", min_size=1, max_size=6)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=40, unique_by=str.lower))
def test_each_class_owns_exactly_the_tokens_of_its_name(names):
    prompts = TOKENIZER.encode(names)
    assert prompts.classes == tuple(names)
    for index, name in enumerate(names):
        assert owned(prompts, index) == tokens_of(name)


@settings(max_examples=30, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=60, unique_by=str.lower))
def test_prompts_are_framed_and_never_too_long(names):
    prompts = TOKENIZER.encode(names)
    spec = BUNDLE.manifest.texts[0].tokens
    assert prompts.input_ids.shape == (len(prompts.texts), spec.max_length)
    for text, row in zip(prompts.texts, prompts.input_ids, strict=True):
        ids = tokens_of(text)
        assert row.tolist()[: len(ids) + 2] == [spec.bos, *ids, spec.eos]
        assert set(row.tolist()[len(ids) + 2 :]) <= {spec.pad}
    places = np.arange(spec.max_length)
    for text, shared in zip(prompts.texts, prompts.shared, strict=True):
        assert places[~shared].tolist() == [1 + place for place in range(len(tokens_of(text)))]


def test_synonyms_share_a_class():
    prompts = TOKENIZER.encode([("car", "red car"), "sky"])
    assert prompts.classes == ("car", "sky")
    assert owned(prompts, 0) == tokens_of("car") + tokens_of("red car")


def test_a_name_that_is_the_joint_word_is_found():
    prompts = TOKENIZER.encode(["sky", "and", "grass"])
    assert owned(prompts, 1) == tokens_of("and")
    assert np.bincount(prompts.owner).tolist() == [1, 1, 1]


def test_a_long_list_takes_several_prompts():
    names = [f"thing number {i}" for i in range(60)]
    prompts = TOKENIZER.encode(names)
    assert len(prompts.texts) > 1
    assert sorted(set(prompts.owner.tolist())) == list(range(60))


def test_white_space_is_normalised():
    assert TOKENIZER.encode(["  traffic \t light "]).classes == ("traffic light",)


@pytest.mark.parametrize(
    ("background", "shown"),
    [
        ("grass", "grass"),
        (" grass", "grass"),
        ("Grass", "grass"),
        ("traffic\t  light", "traffic light"),
        ("automobile", "car"),
        ("AUTOMOBILE ", "car"),
    ],
)
def test_a_background_among_the_classes_is_that_class(background, shown):
    classes = ["sky", ("car", "automobile"), " grass", "traffic light"]
    assert with_background(classes, background) == (classes, shown)


def test_another_background_is_added():
    assert with_background(["sky"], " deep  water ") == (["sky", "deep water"], "deep water")


@pytest.mark.parametrize("background", ["", "  ", "\u200b"])
def test_an_empty_background_is_named(background):
    with pytest.raises(PromptError, match="background has no name"):
        with_background(["sky"], background)


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|startoftext|>", "a <|endoftext|> b"])
def test_special_tokens_in_names_are_text(name):
    prompts = TOKENIZER.encode(["sky", name, "water"])
    spec = BUNDLE.manifest.texts[0].tokens
    row = prompts.input_ids[0].tolist()
    tokens = len(prompts.owner)
    assert row.count(spec.bos) == 1
    assert row.index(spec.eos) > tokens
    assert not {spec.bos, spec.eos} & set(owned(prompts, 1))
    assert len(owned(prompts, 1)) > 1
    assert owned(prompts, 2) == tokens_of("water")


def test_invisible_characters_inside_a_name_are_kept():
    """A zero-width joiner can be part of how a word is written."""
    names = ("a\u200db", "\U0001fae8")  # and an emoji is one before Python knows it
    assert TOKENIZER.encode(names).classes == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class names"),
        (["sky", " "], "class 2 of 2 is empty"),
        (["sky", "\u200b"], "class 2 of 2 is empty"),
        (["\ufeff \u2060\u200d", "sky"], "class 1 of 2 is empty"),
        ([("sky", "\ufe0f")], "empty synonym"),
        ([()], "class 1 of 1 is empty"),
        ([("sky", "")], "empty synonym"),
        (["sky", "Sky"], "given twice"),
        (["sky", ("grass", "sky")], "given twice"),
        (["x" * 400], "shorten it"),
        ("sky", "one string"),
    ],
)
def test_bad_lists_are_named(names, message):
    with pytest.raises(PromptError, match=message):
        TOKENIZER.encode(names)


def test_class_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("sky\n# a comment\n\ncar, automobile  # two names\n")
    assert read_classes(path) == [("sky",), ("car", "automobile")]
    path.write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(PromptError, match="cannot be read"):
        read_classes(path)


def test_inline_classes():
    assert parse_classes("sky, traffic light,") == ["sky", "traffic light"]
    assert parse_classes("sky,, grass,,") == ["sky", "", "grass", ""]
    assert parse_classes("") == [""]


@pytest.mark.parametrize("text", ["nothing.txt", "@lists/names", "a, b/names.txt"])
def test_a_class_file_that_is_not_there(text):
    with pytest.raises(PromptError, match=f"class file {text.strip('@')} does not exist.*commas"):
        load_classes(text)


def test_a_directory_is_no_class_list(tmp_path):
    with pytest.raises(PromptError, match="is a directory, expected a text file"):
        load_classes(f"@{tmp_path}")


def test_a_name_is_a_name_whatever_lies_around(tmp_path, monkeypatch):
    """Only "@FILE" and names that end in .txt are files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sky").write_text("car\n")
    (tmp_path / "sea").mkdir()
    (tmp_path / "list.txt").write_text("boat, ship\n")
    assert load_classes("sky") == ["sky"]
    assert load_classes("sea") == ["sea"]
    assert load_classes("sea, sky") == ["sea", "sky"]
    assert load_classes("@sky") == [("car",)]
    assert load_classes("list.txt") == load_classes("@list.txt") == [("boat", "ship")]


def test_slashes_between_names_are_text():
    assert load_classes("sky, car/truck") == ["sky", "car/truck"]


def test_a_broken_tokenizer_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(BundleError, match="no tokenizer"):
        PromptTokenizer(path, BUNDLE.manifest.texts[0].tokens)
