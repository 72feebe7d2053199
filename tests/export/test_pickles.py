"""Pickles are refused by name and by content, and nothing of them runs."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import load_part
from safetensors.torch import load_file

from mdrt.export.components import open_pipeline
from mdrt.runtime.errors import ExportError


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def model(sd1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd1, tmp_path / "model"))


def refused(path: str | Path, part: str = "", **options: Any) -> str:
    def load() -> None:
        load_part(open_pipeline(path, **options), part)

    with pytest.raises(ExportError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["ckpt", "bin", "pt", "pth", "pkl", "safetensors"])
@pytest.mark.parametrize("form", ["torch", "plain"])
def test_one_file(tmp_path: Path, mark: Path, suffix: str, form: str) -> None:
    path = tmp_path / f"model.{suffix}"
    if form == "torch":
        torch.save({"weight": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark)))
    text = refused(path)
    assert "is a pickle" in text
    assert "docs/export.md" in text
    assert not mark.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("hidden", [False, True])
def test_inside_a_directory(model: Path, mark: Path, part: str, hidden: bool) -> None:
    for file in (model / part).glob("*.safetensors"):
        file.unlink()
        torch.save({"weight": Trap(mark)}, file if hidden else file.with_suffix(".bin"))
    assert "is a pickle" in refused(model, part)
    assert not mark.exists()


def test_a_pickle_beside_safetensors_is_left_alone(model: Path, mark: Path) -> None:
    torch.save({"weight": Trap(mark)}, model / "unet" / "diffusion_pytorch_model.bin")
    load_part(open_pipeline(model), "unet")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.bin", "../vae/diffusion_pytorch_model.safetensors"])
def test_an_index_that_names_something_else(model: Path, mark: Path, name: str) -> None:
    torch.save({"weight": Trap(mark)}, model / "unet" / "weights.bin")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": name}}
    path = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert "expected the names of .safetensors files" in refused(model, "unet")
    assert not mark.exists()


def test_other_ways_in(model: Path, tmp_path: Path, mark: Path) -> None:
    torch.save({"weight": Trap(mark)}, tmp_path / "extra.safetensors")
    assert "is a pickle" in refused(model, vae=str(tmp_path / "extra.safetensors"))
    assert "is a pickle" in refused(model, loras=[f"{tmp_path / 'extra.safetensors'}:0.5"])
    assert not mark.exists()


def test_code_in_a_directory_is_not_run(model: Path, mark: Path) -> None:
    """What trust_remote_code would follow."""
    (model / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        shutil.copy(model / "code.py", model / part / "code.py")
        name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
        config = json.loads((model / part / name).read_text())
        config["auto_map"] = {"AutoModel": "code.Model", "AutoTokenizer": ["code.Model", None]}
        (model / part / name).write_text(json.dumps(config))
    index = json.loads((model / "model_index.json").read_text())
    index["_class_name"] = ["code", "Pipeline"]
    index["unet"] = ["code", "UNet2DConditionModel"]
    (model / "model_index.json").write_text(json.dumps(index))
    pipeline = open_pipeline(model)
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        load_part(pipeline, part)
    assert not mark.exists()


def test_the_page_converts_one(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": weight, "b": weight.T}, "epoch": 3}, "model.ckpt")
    exec(code, {})
    found = load_file("model.safetensors")
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight.T)
    torch.save({"a": Trap(mark)}, "model.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        exec(code, {})
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"short", b"<html>not found</html>"])
def test_what_is_neither(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "is no safetensors file" in refused(path)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((99).to_bytes(8, "little") + b"{}")
    assert "cannot be read" in refused(path)
    assert "does not exist" in refused(tmp_path / "absent.safetensors")


def test_a_variant_is_asked_for(sd1: Path, model: Path) -> None:
    assert "unet has no fp16 weights, only plain ones" in refused(model, "unet", variant="fp16")
    plain = model / "unet" / "diffusion_pytorch_model.safetensors"
    network = load_part(open_pipeline(model), "unet")
    network.half().save_pretrained(model / "unet", variant="fp16")
    half = load_part(open_pipeline(model, variant="fp16"), "unet").conv_in.weight
    assert plain.is_file()
    assert torch.equal(half, load_part(open_pipeline(sd1), "unet").conv_in.weight.half().float())
    assert not torch.equal(half, load_part(open_pipeline(model), "unet").conv_in.weight)
