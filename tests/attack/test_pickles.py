"""Nothing is unpickled: weights that may be a pickle are refused before a library sees them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from mdrt.export.components import Pipeline
from mdrt.runtime.errors import ExportError


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", "only pytorch_model.bin, which may be a pickle and is never read"),
        ("model.ckpt", "only model.ckpt, which may be a pickle"),
        ("model.safetensors", "model.safetensors is no safetensors file"),
    ],
)
def test_a_pickled_text_encoder(tmp_path: Path, name: str, says: str) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    pipeline = Pipeline(tmp_path, "x", tmp_path / "vae", "AutoencoderKL", "CLIPTextModel")
    with pytest.raises(ExportError) as caught:
        pipeline.text_encoder()
    assert says in str(caught.value)
    assert not (tmp_path / "mark").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))  # it is one
    assert (tmp_path / "mark").exists()
