"""Whatever a pipeline's directory says: one line before anything is traced, and nothing left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mdrt.export.exporter import export
from mdrt.export.options import ExportOptions
from mdrt.runtime.errors import MdrtError

FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/tokenizer_config.json",
)
TEXTS = {
    "empty": "",
    "no object": "[7]",
    "deep lists": "[" * 100_000,
    "deep objects": '{"a": ' * 100_000,
    "a number of 5,000 digits": '{"a": ' + "9" * 5000 + "}",
    "half a character": '{"a": "\\ud800"',
    "no text": "\x00\x00",
}


class Traced(Exception):
    """What was to be refused came as far as tracing."""


def refused(model: Path, output: Path) -> str:
    """The one line that an export says, which must leave nothing at or beside `output`."""

    def before_tracing(stage: str) -> None:
        if stage.startswith("tracing"):
            raise Traced(stage)

    output.parent.mkdir(exist_ok=True)
    with pytest.raises(MdrtError) as caught:
        export(model, output, ExportOptions(), progress=before_tracing)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1000
    assert list(output.parent.iterdir()) == []
    return line


@pytest.fixture
def broken(sd1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd1, tmp_path / "broken"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files(broken: Path, tmp_path: Path, name: str, text: str) -> None:
    (broken / name).write_text(text)
    refused(broken, tmp_path / "out" / "bundle")


NUMBERS = (-1, 10**9, 10**400)
KEYS = {
    "unet": ("in_channels", "layers_per_block", "attention_head_dim", "block_out_channels"),
    "vae": ("latent_channels", "layers_per_block", "block_out_channels"),
    "text_encoder": ("num_hidden_layers", "vocab_size", "hidden_size", "num_attention_heads"),
    "scheduler": ("num_train_timesteps",),
}


@pytest.mark.parametrize("number", NUMBERS, ids=["negative", "huge", "10⁴⁰⁰"])
@pytest.mark.parametrize(("part", "key"), [(p, key) for p, keys in KEYS.items() for key in keys])
def test_numbers_that_no_model_has(
    broken: Path, tmp_path: Path, part: str, key: str, number: int
) -> None:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = broken / part / name
    values: dict[str, Any] = json.loads(path.read_text())
    old = values[key]
    values[key] = [number] * len(old) if isinstance(old, list) else number
    path.write_text(json.dumps(values))
    refused(broken, tmp_path / "out" / "bundle")
