"""Load the parts of a diffusers pipeline one at a time, each checked before it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers

from ..runtime.bundle.contract import PREDICTION_TYPES
from ..runtime.errors import ExportError
from .quiet import quiet
from .refusal import one_line, refusing

_VAES: Final = ("AutoencoderKL", "AutoencoderTiny")
_ACCEPTED: Final = {
    "unet": ("UNet2DConditionModel",),
    "vae": _VAES,
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
_TEXT_ENCODER: Final = "text_encoder"
_TOKENIZER: Final = "tokenizer"
_VOCABULARIES: Final = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline on disk; nothing is loaded until asked for.

    `vae_path` is the VAE's own directory, which need not lie in the pipeline's; `classes` are
    those of its other parts.
    """

    path: Path
    model_id: str
    vae_path: Path
    vae_class: str
    classes: Mapping[str, str]

    @property
    def text_encoders(self) -> int:
        """How many there are."""
        return sum(part.startswith(_TEXT_ENCODER) for part in self.classes)

    def text_class(self, index: int) -> str:
        """The class of a text encoder, counted from 0."""
        return self.classes[_part(_TEXT_ENCODER, index)]

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration, as its file has it."""
        return read_json(self.path / part / "config.json")

    def vae_config(self) -> dict[str, Any]:
        return read_json(self.vae_path / "config.json")

    def load(self, part: str, kind: Any) -> Any:
        """A part, of a class of diffusers' or transformers'."""
        return self._load(kind, self.path / part)

    def vae(self) -> Any:
        return self._load(getattr(diffusers, self.vae_class), self.vae_path)

    def text_encoder(self, index: int) -> Any:
        """A text encoder, with attention written out so that it can be traced."""
        kind = getattr(transformers, self.text_class(index))
        folder = self.path / _part(_TEXT_ENCODER, index)
        return self._load(kind, folder, attn_implementation="eager")

    def text_config(self, index: int) -> Any:
        """A text encoder's configuration, with transformers' defaults."""
        folder = self.path / _part(_TEXT_ENCODER, index)
        with refusing(f"{folder / 'config.json'} is no CLIP text encoder's configuration"):
            return transformers.CLIPTextConfig.from_pretrained(folder)

    def tokenizer(self, index: int) -> Any:
        """The tokenizer of a text encoder as transformers reads it.

        Raises:
            ExportError: its files are missing or damaged.
        """
        folder = self.path / _part(_TOKENIZER, index)
        # without any file transformers makes a vocabulary of two tokens, and says nothing
        if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
            raise ExportError(
                f"{folder} has no vocabulary; expected "
                f"{', or '.join(' and '.join(names) for names in _VOCABULARIES)}"
            )
        with refusing(f"{folder} cannot be loaded as a CLIP tokenizer"):
            return transformers.CLIPTokenizerFast.from_pretrained(folder)

    def schedule(self) -> tuple[tuple[float, ...], str]:
        """ᾱ_t of every training timestep in float64, and the prediction type.

        Raises:
            ExportError: the noise schedule or the prediction type is of an unknown kind.
        """
        config = read_json(self.path / "scheduler" / "scheduler_config.json")
        kind = config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES:
            raise ExportError(
                f"the scheduler's prediction_type is {kind!r}; expected one of "
                f"{', '.join(PREDICTION_TYPES)} (Stable Diffusion 1.x, 2.x or XL)"
            )
        with refusing("the scheduler's noise schedule is unknown"):
            betas = diffusers.DDPMScheduler.from_config(config).betas.double()
        return tuple(torch.cumprod(1.0 - betas, 0).tolist()), kind

    def _load(self, kind: Any, path: Path, **options: Any) -> Any:
        plain = ("*model.safetensors", "*model.bin", "*model.safetensors.index.json")
        variant = None if any(any(path.glob(name)) for name in plain) else _variant(path)
        with refusing(f"{path} cannot be loaded as {kind.__name__}"):
            model, found = kind.from_pretrained(
                path, variant=variant, output_loading_info=True, **options
            )
        if missing := sorted(found["missing_keys"]):  # the libraries make them up at random
            raise ExportError(
                f"{path} lacks {len(missing)} of {kind.__name__}'s weights, the first "
                f"{missing[0]}; its files are damaged, or config.json is another model's"
            )
        return model.float().eval().requires_grad_(False)


def open_pipeline(model: str | Path, vae: Path | None = None) -> Pipeline:
    """Find a pipeline: a directory, or a hub id that is fetched (or found in the cache).

    Raises:
        ExportError: nothing there, no network, no pipeline, or components of another kind.
    """
    path = Path(model)
    if not path.exists() and isinstance(model, str) and _HUB_ID.fullmatch(model):
        path = _fetch(model)
        model_id = model
    else:
        model_id = path.resolve().name
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ExportError(f"{path} {found}; expected a diffusers pipeline directory or a hub id")
    if not (path / "model_index.json").is_file():
        raise ExportError(
            f"{path} has no model_index.json; expected a diffusers pipeline directory "
            "(a single .safetensors checkpoint is converted by diffusers' own scripts)"
        )
    index = read_json(path / "model_index.json")
    classes = {part: _checked_class(index, part) for part in _parts(index)}
    if vae is None:
        vae_path, vae_class = path / "vae", _checked_class(index, "vae")
    else:
        if not vae.is_dir():
            found = "is a file" if vae.exists() else "does not exist"
            raise ExportError(f"VAE {vae} {found}, expected the directory of a diffusers VAE")
        vae_path = vae if (vae / "config.json").is_file() else vae / "vae"
        vae_class = str(read_json(vae_path / "config.json").get("_class_name"))
        _check_class("vae", vae_class)
    return Pipeline(path, model_id, vae_path, vae_class, classes)


def _part(kind: str, index: int) -> str:
    """The name of what a pipeline may have several of."""
    return kind if index == 0 else f"{kind}_{index + 1}"


def _parts(index: Mapping[str, Any]) -> list[str]:
    """The parts that a pipeline must have, and its further text encoders."""
    further = [name for i in (1, 2) if index.get(name := _part(_TEXT_ENCODER, i), [None])[0]]
    beside = [name.replace(_TEXT_ENCODER, _TOKENIZER) for name in further]
    return ["unet", _TEXT_ENCODER, _TOKENIZER, *further, *beside]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ExportError: it is missing or is no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ExportError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


def _checked_class(index: Mapping[str, Any], part: str) -> str:
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        raise ExportError(
            f"the pipeline has no {part}; expected {' or '.join(_accepted(part))} "
            "(Stable Diffusion 1.x, 2.x or XL)"
        )
    _check_class(part, entry[1])
    return entry[1]


def _accepted(part: str) -> tuple[str, ...]:
    """The classes that a part may be of; a second text encoder's are the first's."""
    return _ACCEPTED[part.rstrip("_0123456789")]


def _check_class(part: str, name: str) -> None:
    if name not in _accepted(part):
        raise ExportError(
            f"the pipeline's {part} is a {name}; expected {' or '.join(_accepted(part))} "
            "(Stable Diffusion 1.x, 2.x or XL)"
        )


def _variant(path: Path) -> str | None:
    """The variant of a component that comes in one only, as `model.fp16.safetensors`."""
    found = sorted({file.suffixes[0][1:] for file in path.glob("*model.*.safetensors")})
    return found[0] if found else None


def _fetch(model_id: str) -> Path:
    try:
        with quiet():
            fetched = diffusers.DiffusionPipeline.download(
                model_id, safety_checker=None, feature_extractor=None
            )
    except Exception as error:  # the hub raises from httpx, requests and itself
        raise ExportError(
            f"{model_id} is neither a directory here nor could it be fetched from the hub "
            f"({type(error).__name__}: {one_line(error)}); check the network or give a directory"
        ) from error
    return Path(fetched)
