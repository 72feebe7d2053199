"""Where a vision transformer lies, and how its parts are loaded: one directory, as hubs hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transformers

from ....runtime.errors import ExportError
from ...components import load_tokenizer, read_json
from ...hub import fetch_files, is_hub_id
from ...refusal import refusing

CONFIGS: Final[Mapping[str, Any]] = {
    "clip": transformers.CLIPConfig,
    "dinov2": transformers.Dinov2Config,
    "dinov2_with_registers": transformers.Dinov2WithRegistersConfig,
}
"""The families, by `model_type`."""

CONFIG: Final = "config.json"
_INDEX: Final = "model_index.json"  # of a diffusers pipeline, which holds its models in folders
_FILES: Final = (
    CONFIG,
    "preprocessor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "model*.safetensors",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class Source:
    """A directory with a configuration of one of the families, and what it is called."""

    folder: Path
    model_id: str
    config: Any

    @property
    def vision(self) -> Any:
        """The configuration of the vision transformer."""
        return self._part("vision_config")

    @property
    def text(self) -> Any:
        """The configuration of the text transformer, of a CLIP."""
        return self._part("text_config")

    def _part(self, name: str) -> Any:
        """Of a CLIP a part's own configuration, which need not know what the whole projects to."""
        part = getattr(self.config, name, None)
        if part is None:
            return self.config
        part.projection_dim = self.config.projection_dim
        return part

    def load(self, kind: Any, config: Any, attention: str) -> Any:
        """A part in float32, its weights from safetensors.

        Args:
            kind: transformers' class.
            config: `vision` or `text`.
            attention: transformers' name of how it is computed.

        Raises:
            ExportError: there is no such file, it is damaged, or lacks weights.
        """
        with refusing(f"{self.folder} cannot be loaded as {kind.__name__}"):
            model, found = kind.from_pretrained(
                self.folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation=attention,
            )
        if missing := sorted(found["missing_keys"]):  # the library makes them up at random
            raise ExportError(
                f"{self.folder} lacks {len(missing)} of {kind.__name__}'s weights, the first "
                f"{missing[0]}; its files are damaged, or {CONFIG} is another model's"
            )
        return model.float().eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """CLIP's tokenizer as transformers reads it.

        Raises:
            ExportError: its files are missing or damaged.
        """
        return load_tokenizer(self.folder)

    def preprocessing(self) -> dict[str, Any]:
        """What its picture processor is told; empty where nothing lies there."""
        path = self.folder / "preprocessor_config.json"
        return read_json(path) if path.is_file() else {}


def find_source(model: str | Path, revision: str | None = None) -> Source | None:
    """A directory, or a hub id that is fetched, if it holds a vision transformer; else None.

    Raises:
        ExportError: it does, and its configuration cannot be read.
    """
    path, model_id = Path(model), Path(model).resolve().name
    if is_hub_id(model):
        model_id = str(model)
        try:
            path = fetch_files(model_id, _INDEX, CONFIG, revision=revision)
        except ExportError:
            return None  # said by whoever looks for another kind of model
        if _family(path) is not None:
            path = fetch_files(model_id, *_FILES, revision=revision)
    family = _family(path)
    if family is None:
        return None
    with refusing(f"{path / CONFIG} is no configuration of a {family}"):
        return Source(path, model_id, CONFIGS[family].from_pretrained(path))


def _family(folder: Path) -> str | None:
    """The family that a directory's configuration names, if it is one of those here."""
    path = folder / CONFIG
    if (folder / _INDEX).is_file() or not path.is_file():
        return None
    kind = read_json(path).get("model_type")
    return kind if kind in CONFIGS else None
