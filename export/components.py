"""Load the parts of a diffusers pipeline one at a time, each checked before it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from safetensors import safe_open

from ..runtime.bundle.contract import MOST_STEPS
from ..runtime.errors import ExportError
from .checkpoint import CONFIGS, Checkpoint, open_checkpoint
from .halves import keep_halves
from .hub import CLIP, fetch_files, fetch_pipeline, is_hub_id
from .lora import Lora, open_lora
from .pickles import PICKLES, refuse_pickle, weights_variant
from .refusal import refusing

_VAES: Final = ("AutoencoderKL", "AutoencoderTiny")
_ACCEPTED: Final = {
    "unet": ("UNet2DConditionModel",),
    "transformer": ("SD3Transformer2DModel",),
    "vae": _VAES,
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
_TEXT_ENCODER: Final = "text_encoder"
_TOKENIZER: Final = "tokenizer"
_VOCABULARIES: Final = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_MOST: Final = 1 << 31
"""No whole number of a configuration is larger, be it a size or an id."""
_MOST_LAYERS: Final = 1000
"""As many are built one by one before any library looks at the rest."""
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length")


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline on disk; nothing is loaded until asked for.

    Attributes:
        path: the pipeline's directory; of a one-file checkpoint, its configuration's.
        model_id: what the bundle is called after.
        vae_path: the VAE's own directory, which need not lie in the pipeline's.
        vae_class: its class.
        classes: those of the other parts.
        vocabulary: the directory with the tokenizers' vocabulary where it is not their own; None
            of a one-file checkpoint that must look for one.
        checkpoints: the files that hold the weights of a part, by the part's name; the others'
            lie in their directories.
        variant: of the weights in directories, as fp16; None takes what is there.
        loras: what is merged into every part as it is loaded.
    """

    path: Path
    model_id: str
    vae_path: Path
    vae_class: str
    classes: Mapping[str, str]
    vocabulary: Path | None = None
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    variant: str | None = None
    loras: tuple[Lora, ...] = ()

    @property
    def text_encoders(self) -> int:
        """How many there are."""
        return sum(part.startswith(_TEXT_ENCODER) for part in self.classes)

    def text_class(self, index: int) -> str:
        """The class of a text encoder, counted from 0."""
        return self.classes[_part(_TEXT_ENCODER, index)]

    def config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """A part's configuration, as its file has it, and what a checkpoint says of it."""
        checkpoint = self.checkpoints.get(part)
        said = {} if checkpoint is None else checkpoint.config(part)
        return read_config(self.path / part / file) | said

    def vae_config(self) -> dict[str, Any]:
        return read_config(self.vae_path / "config.json")

    def load(self, part: str, kind: Any) -> Any:
        """A part, of a class of diffusers' or transformers'."""
        return self._load(part, kind, self.path / part, self.config(part))

    def vae(self) -> Any:
        kind = getattr(diffusers, self.vae_class)
        return self._load("vae", kind, self.vae_path, self.vae_config())

    def text_encoder(self, index: int) -> Any:
        """A text encoder, with attention written out so that it can be traced."""
        kind = getattr(transformers, self.text_class(index))
        part = _part(_TEXT_ENCODER, index)
        config = self.text_config(index)
        return self._load(part, kind, self.path / part, config, attn_implementation="eager")

    def text_config(self, index: int) -> Any:
        """A text encoder's configuration, with transformers' defaults."""
        folder = self.path / _part(_TEXT_ENCODER, index)
        read_config(folder / "config.json")
        with refusing(f"{folder / 'config.json'} is no CLIP text encoder's configuration"):
            return transformers.CLIPTextConfig.from_pretrained(folder)

    def tokenizer(self, index: int) -> Any:
        """The tokenizer of a text encoder as transformers reads it.

        Raises:
            ExportError: its files are missing or damaged.
        """
        own = self.path / _part(_TOKENIZER, index)
        folder = self.vocabulary or own
        if folder == own and _TEXT_ENCODER in self.checkpoints and not has_vocabulary(own):
            folder = fetch_vocabulary()
        special: dict[str, Any] = {}
        if folder != own and (own / "tokenizer_config.json").is_file():
            config = read_json(own / "tokenizer_config.json")  # models pad differently
            special = {name: config[name] for name in _SPECIAL if name in config}
        return load_tokenizer(folder, **special)

    def _load(self, part: str, kind: Any, path: Path, config: Any, **options: Any) -> Any:
        checkpoint = self.checkpoints.get(part)
        if checkpoint is not None:
            source = checkpoint.path
            model, missing = checkpoint.load(part, kind, config, **options)
        else:
            source = path
            variant = weights_variant(path, self.variant)
            _check_size(path, kind, config)
            if hasattr(diffusers, kind.__name__) and _is_half(path, variant):
                options["torch_dtype"] = torch.float16  # else it is widened whole
            with refusing(f"{path} cannot be loaded as {kind.__name__}"):
                model, found = kind.from_pretrained(
                    path,
                    variant=variant,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                    **options,
                )
            missing = sorted(found["missing_keys"])  # the libraries make them up at random
        if missing:
            raise ExportError(
                f"{source} lacks {len(missing)} of {kind.__name__}'s weights, the first "
                f"{missing[0]}; its files are damaged, or its configuration is another model's"
            )
        if any(part in lora.pairs for lora in self.loras):
            model = model.float()  # which a merged weight is rounded from once
            for lora in self.loras:
                lora.merge(part, model)
        model = keep_halves(model)
        return model.eval().requires_grad_(False)


def open_pipeline(
    model: str | Path,
    vae: str | Path | None = None,
    *,
    tokenizer: Path | None = None,
    config: Path | None = None,
    loras: Sequence[str] = (),
    variant: str | None = None,
    revision: str | None = None,
) -> Pipeline:
    """Find a pipeline: a directory, a one-file checkpoint, or a hub id that is fetched (or found
    in the cache).

    Args:
        model: which.
        vae: another VAE's directory, one file or hub id.
        tokenizer: a directory with another vocabulary; a one-file checkpoint has none.
        config: the configuration of a one-file checkpoint of a family that is not known: a
            diffusers pipeline's directory, which needs no weights.
        loras: what to merge, each `FILE` or `FILE:scale`.
        variant: of the weights in directories and on the hub, as fp16.
        revision: of a hub id: a branch, tag or commit.

    Raises:
        ExportError: nothing there, no network, no pipeline, a pickle, or components of another
            kind.
    """
    path = Path(model)
    if revision is not None and not is_hub_id(model):
        raise ExportError(f"revision {revision} is of a hub id, and {path} is none")
    checkpoint = None
    if is_hub_id(model):
        model_id, path = str(model), fetch_pipeline(str(model), variant, revision)
    elif path.is_file():
        checkpoint = open_checkpoint(path)
        model_id, path = path.stem, config or CONFIGS / checkpoint.family()
    else:
        model_id = path.resolve().name
    if checkpoint is None and config is not None:
        raise ExportError(f"{path} has a configuration of its own; --config is for one file")
    if not path.is_dir():
        if path.suffix.lower() in PICKLES:
            refuse_pickle(path)
        raise ExportError(
            f"{path} does not exist; expected a diffusers pipeline directory, a .safetensors "
            "checkpoint or a hub id"
        )
    if not (path / "model_index.json").is_file():
        raise ExportError(
            f"{path} has no model_index.json; expected a diffusers pipeline directory, or a "
            ".safetensors checkpoint's own name"
        )
    index = read_json(path / "model_index.json")
    classes = {part: _checked_class(index, part) for part in _parts(index)}
    opened = tuple(open_lora(text) for text in loras)
    for lora in opened:
        if strange := set(lora.pairs) - set(index):
            raise ExportError(f"LoRA {lora.path} changes the {strange.pop()}, which {model} lacks")
    weighty = [part for part in classes if not part.startswith(_TOKENIZER)]
    checkpoints = {} if checkpoint is None else dict.fromkeys(weighty, checkpoint)
    vae_path, vae_class, vae_file = _find_vae(path, index, vae)
    if vae_file is not None:
        checkpoints["vae"] = vae_file
    elif vae is None and checkpoint is not None:
        checkpoints["vae"] = checkpoint
    for part, holder in checkpoints.items():
        if not holder.holds(part):
            raise ExportError(f"{holder.path} has no {part.replace('_', ' ')}")
    return Pipeline(
        path,
        "+".join([model_id, *(lora.name for lora in opened)]),
        vae_path,
        vae_class,
        classes,
        tokenizer,
        checkpoints,
        variant,
        opened,
    )


def _find_vae(
    path: Path, index: Mapping[str, Any], vae: str | Path | None
) -> tuple[Path, str, Checkpoint | None]:
    """The directory with the VAE's configuration, its class, and its own file if it has one."""
    if vae is None:
        return path / "vae", _checked_class(index, "vae"), None
    if is_hub_id(vae):
        folder = fetch_files(str(vae), "config.json", "diffusion_pytorch_model.safetensors")
    elif Path(vae).is_file():
        return path / "vae", _checked_class(index, "vae"), open_checkpoint(Path(vae))
    elif Path(vae).is_dir():
        folder = Path(vae) if (Path(vae) / "config.json").is_file() else Path(vae) / "vae"
    else:
        raise ExportError(
            f"VAE {vae} does not exist, expected the directory of a diffusers VAE, its one file or "
            "a hub id"
        )
    kind = str(read_json(folder / "config.json").get("_class_name"))
    _check_class("vae", kind)
    return folder, kind, None


def has_vocabulary(folder: Path) -> bool:
    """Whether a CLIP tokenizer's vocabulary lies in `folder`."""
    return any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES)


def fetch_vocabulary() -> Path:
    """CLIP's vocabulary, from the hub or its cache.

    Raises:
        ExportError: it is in neither.
    """
    try:
        return fetch_files(CLIP, *(name for names in _VOCABULARIES[1:] for name in names))
    except ExportError as error:
        raise ExportError(
            "a checkpoint in one file has no tokenizer: give --tokenizer, the directory of any "
            f"CLIP's (vocab.json and merges.txt), since {error}"
        ) from error


def _part(kind: str, index: int) -> str:
    """The name of what a pipeline may have several of."""
    return kind if index == 0 else f"{kind}_{index + 1}"


def _parts(index: Mapping[str, Any]) -> list[str]:
    """The parts that a pipeline must have, and its further text encoders: of a transformer's the
    CLIPs, since its T5 is done without."""
    network, most = ("transformer", 2) if "transformer" in index else ("unet", 3)
    names = [_part(_TEXT_ENCODER, i) for i in range(1, most)]
    further = [name for name in names if index.get(name, [None])[0]]
    beside = [name.replace(_TEXT_ENCODER, _TOKENIZER) for name in further]
    return [network, _TEXT_ENCODER, _TOKENIZER, *further, *beside]


def _is_half(folder: Path, variant: str | None) -> bool:
    """Whether all of a component's weights are stored as float16."""
    files = folder.glob(f"*model.{variant}*.safetensors" if variant else "*model[-.]*safetensors")
    kinds = set()
    for path in files:
        with refusing(f"{path} cannot be read"), safe_open(path, framework="pt") as file:
            kinds |= {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    return kinds == {"F16"}


def load_tokenizer(folder: Path, **special: Any) -> Any:
    """A CLIP tokenizer as transformers reads it, with what `special` says instead of its files.

    Raises:
        ExportError: its files are missing or damaged.
    """
    # without any file transformers makes a vocabulary of two tokens, and says nothing
    if not has_vocabulary(folder):
        raise ExportError(
            f"{folder} has no vocabulary; expected "
            f"{', or '.join(' and '.join(names) for names in _VOCABULARIES)}"
        )
    with refusing(f"{folder} cannot be loaded as a CLIP tokenizer"):
        return transformers.CLIPTokenizerFast.from_pretrained(folder, **special)


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


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a part.

    Raises:
        ExportError: it is no JSON object, or holds numbers that no model has.
    """
    values = read_json(path)
    for key, value in values.items():
        steps = key == "num_train_timesteps"
        most = MOST_STEPS if steps else _MOST_LAYERS if "layers" in key else _MOST
        least = -1 if key.endswith("_id") else 0  # no token
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not least <= number <= most:
                shown = str(number) if abs(number) < 10**20 else f"{str(number)[:20]}…"
                raise ExportError(f"{path}: {key} is {shown}, expected {least} to {most}")
    return values


def _check_size(path: Path, kind: Any, config: Any) -> None:
    """See that a component in a directory is not larger than the weights that lie there: the
    libraries take its memory before they look at them.

    Raises:
        ExportError: it is, or cannot be built.
    """
    with refusing(f"{path} cannot be loaded as {kind.__name__}"), torch.device("meta"):
        model = kind.from_config(config) if isinstance(config, Mapping) else kind(config)
    numbers = sum(weights.numel() for weights in model.parameters())
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if stored and numbers > stored:  # a byte each is the least there is
        raise ExportError(
            f"{path / 'config.json'} describes {numbers:,} weights, and what lies there has "
            f"{stored:,} bytes; its files are damaged, or its configuration is another model's"
        )


def _checked_class(index: Mapping[str, Any], part: str) -> str:
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        raise ExportError(
            f"the pipeline has no {part}; expected {' or '.join(_accepted(part))} "
            "(Stable Diffusion 1.x, 2.x, XL or 3)"
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
            "(Stable Diffusion 1.x, 2.x, XL or 3)"
        )
