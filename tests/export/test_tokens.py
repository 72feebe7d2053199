"""The exported tokenizer gives the ids that transformers gives."""

from __future__ import annotations

import pytest
import tokenizers
from transformers import CLIPTokenizerFast

from mdrt.export.exporter import ExportReport
from mdrt.export.tokens import write_tokenizer
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
    spec = made.manifest.tokenizer
    ids = exported.encode(prompt).ids
    assert ids == original(prompt).input_ids
    assert (ids[0], ids[-1]) == (spec.bos, spec.eos)
    padded = original(prompt, padding="max_length", max_length=spec.max_length).input_ids
    assert ids + [spec.pad] * (spec.max_length - len(ids)) == padded


def test_a_known_word_is_one_token(sd1_report: ExportReport) -> None:
    path = sd1_report.path / "tokenizer" / "tokenizer.json"
    exported = tokenizers.Tokenizer.from_file(str(path))
    assert exported.encode("Traffic light").tokens[1:-1] == ["traffic</w>", "light</w>"]


def test_other_ids_are_refused(sd1, tmp_path) -> None:
    original = CLIPTokenizerFast.from_pretrained(sd1 / "tokenizer")

    class Other:
        backend_tokenizer = original.backend_tokenizer

        def __call__(self, prompt: str) -> object:
            encoded = original(prompt)
            encoded["input_ids"] = [*encoded["input_ids"], 1]
            return encoded

    with pytest.raises(ExportError, match="transformers as"):
        write_tokenizer(Other(), tmp_path / "tokenizer.json")
