"""The exported tokenizer gives the ids that transformers gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
from transformers import CLIPTokenizerFast

from mdrt.export.exporter import ExportReport
from mdrt.export.tokens import tokenizer_spec, write_tokenizer
from mdrt.runtime.errors import ExportError

PROMPTS = [
    "sky",
    "a photo of a Traffic Light and grass",
    "TREE, car; person?",
    "snow-capped mountains at 5 o'clock",
    "  spaces   and\ttabs\n",
    "Ünïcode ça va 東京",
    "",
]


@pytest.mark.parametrize("report", ["sd1_report", "sd2_report"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_parity(report: str, prompt: str, request: pytest.FixtureRequest) -> None:
    made: ExportReport = request.getfixturevalue(report)
    model = request.getfixturevalue(report.removesuffix("_report"))
    original = CLIPTokenizerFast.from_pretrained(model / "tokenizer")
    exported = tokenizers.Tokenizer.from_file(str(made.path / "tokenizer" / "tokenizer.json"))
    spec = made.manifest.texts[0].tokens
    ids = exported.encode(prompt).ids
    assert ids == original(prompt).input_ids
    assert (ids[0], ids[-1]) == (spec.bos, spec.eos)
    padded = original(prompt, padding="max_length", max_length=spec.max_length).input_ids
    assert ids + [spec.pad] * (spec.max_length - len(ids)) == padded


def test_a_known_word_is_one_token(sd1_report: ExportReport) -> None:
    path = sd1_report.path / "tokenizer" / "tokenizer.json"
    exported = tokenizers.Tokenizer.from_file(str(path))
    assert exported.encode("Traffic light").tokens[1:-1] == ["traffic</w>", "light</w>"]


@pytest.fixture
def original(sd1: Path) -> CLIPTokenizerFast:
    return CLIPTokenizerFast.from_pretrained(sd1 / "tokenizer")


def refusal(tokenizer: object, folder: Path, **changes: int) -> str:
    """Why a tokenizer is refused, in one line."""
    spec = dataclasses.replace(tokenizer_spec(tokenizer, 77), **changes)
    with pytest.raises(ExportError) as caught:
        write_tokenizer(tokenizer, folder / "tokenizer.json", spec, embeddings=10_000)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Changed:
    """A tokenizer whose `tokenizer.json` is another, and whose ids are that one's."""

    def __init__(self, original: CLIPTokenizerFast, change: Callable[[dict], object]) -> None:
        self._original = original
        values = json.loads(original.backend_tokenizer.to_str())
        change(values)
        self.backend_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(values))

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)

    def __call__(self, prompt: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.backend_tokenizer.encode(prompt).ids)


def test_its_proof_is_a_row(original: CLIPTokenizerFast, tmp_path: Path) -> None:
    spec = tokenizer_spec(original, 77)
    names = ["traffic light", "Sky"]
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.parent.mkdir()
    row = write_tokenizer(original, path, spec, len(original), names)
    assert (row.graph, row.tensor, row.passed) == ("tokenizer/tokenizer.json", "input_ids", True)
    with pytest.raises(ExportError, match=f"up to {len(original) - 1}, the text encoder embeds"):
        write_tokenizer(original, tmp_path / "tokenizer.json", spec, len(original) - 1)


def test_a_vocabulary_of_two_tokens(tmp_path: Path) -> None:
    assert "does not know the letters of 'sky'" in refusal(CLIPTokenizerFast(), tmp_path)


def test_names_that_are_read_alike(original: CLIPTokenizerFast, tmp_path: Path) -> None:
    def blur(values: dict) -> None:
        replace = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "a"}
        values["normalizer"]["normalizers"].append(replace)

    text = refusal(Changed(original, blur), tmp_path)
    assert "reads 'sky' and 'car' as the same tokens" in text


def test_merges_of_another_vocabulary(original: CLIPTokenizerFast, tmp_path: Path) -> None:
    def forget(values: dict) -> None:
        values["model"]["merges"] = []

    text = refusal(Changed(original, forget), tmp_path)
    assert "reads 0 of 23 words of its own vocabulary as one token" in text


def test_no_begin_and_end(original: CLIPTokenizerFast, tmp_path: Path) -> None:
    def forget(values: dict) -> None:
        values["post_processor"] = None

    text = refusal(Changed(original, forget), tmp_path)
    assert "between its begin token" in text
    assert "between its begin token 1" in refusal(original, tmp_path, bos=1)


def test_a_tokenizer_without_a_special_token(original: CLIPTokenizerFast) -> None:
    original.pad_token = None
    with pytest.raises(ExportError, match="has no pad_token"):
        tokenizer_spec(original, 77)


def test_other_ids_are_refused(original: CLIPTokenizerFast, tmp_path: Path) -> None:
    class Other(Changed):
        def __call__(self, prompt: str) -> SimpleNamespace:
            return SimpleNamespace(input_ids=[*original(prompt).input_ids, 1])

    assert "transformers as" in refusal(Other(original, lambda values: values), tmp_path)
