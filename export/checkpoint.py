"""One .safetensors file with a whole model, in the layout of Stable Diffusion's own repositories.

Which model it is, its keys and shapes tell. Components are read one at a time, converted by
diffusers' own functions, and share the file's memory until they are widened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
import transformers
from diffusers.loaders import single_file_utils as single_file
from safetensors import safe_open

from ..runtime.errors import ExportError
from .pickles import refuse_pickle
from .refusal import refusing

CONFIGS: Final = Path(__file__).parent / "configs"
"""A folder for each family, in the layout of diffusers' pipelines without weights."""

_UNET: Final = "model.diffusion_model."
_FIRST: Final = f"{_UNET}input_blocks.0.0.weight"
_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "unet": (_UNET,),
    "vae": ("first_stage_model.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
_FAMILIES: Final = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # by the width of the texts
_CHANNELS: Final = 320  # of the first convolution, in all of them
_CELL: Final = 8  # pixels of the pictures for one of the UNet, in all of them
_OTHERS: Final = (  # what else people download as one file, by what a key of it contains
    ("lora_", "is a LoRA; give it with --lora, and the model it was made for as MODEL"),
    (".lora", "is a LoRA; give it with --lora, and the model it was made for as MODEL"),
    ("hada_", "is a LyCORIS; merge it into a checkpoint first"),
    ("control_model.", "is a ControlNet"),
    ("input_hint_block.", "is a ControlNet"),
    ("joint_blocks.", "is a Stable Diffusion 3; give the directory of its diffusers pipeline"),
    ("double_blocks.", "is a Flux, which has no UNet"),
    ("down_blocks.", "is one part of a diffusers pipeline; give the pipeline's directory"),
    ("encoder.down.", "is a VAE alone; give it with --vae"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name: their shapes, and what its header says of itself."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def family(self) -> str:
        """Which folder of `CONFIGS` has its configuration.

        Raises:
            ExportError: it is of no family that is known, or something else entirely.
        """
        if _FIRST not in self.shapes:
            for sign, what in _OTHERS:
                if any(sign in key for key in self.shapes):
                    raise ExportError(f"{self.path} {what}")
            raise ExportError(
                f"{self.path} holds no UNet (no tensor is called {_FIRST}); expected a checkpoint "
                "of Stable Diffusion 1.x, 2.x or XL"
            )
        if "edm_mean" in self.shapes:
            raise ExportError(
                f"{self.path} is a Playground 2.5; give the directory of its diffusers pipeline"
            )
        widths = {
            shape[-1]
            for key, shape in self.shapes.items()
            if key.startswith(_UNET) and key.endswith(".attn2.to_k.weight")
        }
        channels = self.shapes[_FIRST][0]
        if channels != _CHANNELS or len(widths) != 1 or not widths <= set(_FAMILIES):
            raise ExportError(
                f"{self.path} is no Stable Diffusion 1.x, 2.x or XL: its UNet begins with "
                f"{channels} channels and reads texts {sorted(widths)} wide, expected {_CHANNELS} "
                f"and one of {', '.join(map(str, _FAMILIES))}; --config gives the configuration "
                "of another"
            )
        return _FAMILIES[widths.pop()]

    def config(self, part: str) -> dict[str, Any]:
        """What the file itself says of a part's configuration."""
        if part != "unet" or _FIRST not in self.shapes:
            return {}
        said: dict[str, Any] = {"in_channels": self.shapes[_FIRST][1]}
        sides = self.metadata.get("modelspec.resolution", "").split("x")  # as 768x768
        if all(side.isdecimal() and int(side) >= _CELL for side in sides):
            said["sample_size"] = max(map(int, sides)) // _CELL
        return said

    def holds(self, part: str) -> bool:
        return any(key.startswith(_PREFIXES[part]) for key in self.shapes)

    def load(self, part: str, kind: Any, config: Any, **options: Any) -> tuple[Any, list[str]]:
        """A component, its weights as they are stored, and the names of those that it lacks.

        Args:
            part: as the pipeline calls it.
            kind: the class to build.
            config: the part's whole configuration, a dictionary of diffusers' or an object of
                transformers'.
            options: further ones of a text encoder.

        Raises:
            ExportError: the file and the configuration are of different models.
        """
        with refusing(f"{self.path} does not hold the {part} that its configuration describes"):
            weights = self._read(part)
            if isinstance(config, transformers.PretrainedConfig):
                weights = _text_weights(weights, config)
                model, found = kind.from_pretrained(
                    None, config=config, state_dict=weights, output_loading_info=True, **options
                )
                return model, sorted(found["missing_keys"])
            with torch.device("meta"):
                model = kind.from_config(config)
            convert = {
                "unet": single_file.convert_ldm_unet_checkpoint,
                "vae": single_file.convert_ldm_vae_checkpoint,
            }[part]
            found = model.load_state_dict(
                convert(weights, dict(model.config)), strict=False, assign=True
            )
        if found.unexpected_keys:
            raise ExportError(
                f"{self.path} holds {len(found.unexpected_keys)} weights of the {part} that its "
                f"configuration does not have, the first {found.unexpected_keys[0]}; --config "
                "gives the configuration of another model"
            )
        return model, sorted(found.missing_keys)

    def _read(self, part: str) -> dict[str, torch.Tensor]:
        with safe_open(self.path, framework="pt") as file:
            return {
                key: file.get_tensor(key) for key in self.shapes if key.startswith(_PREFIXES[part])
            }


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a file's header.

    Raises:
        ExportError: it is a pickle, damaged, or no safetensors file.
    """
    refuse_pickle(path)
    with refusing(f"{path} cannot be read"), safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        return Checkpoint(path, shapes, file.metadata() or {})


def _text_weights(weights: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """A text encoder's weights by transformers' names, from those or OpenCLIP's."""
    for prefix in ("cond_stage_model.model.", "conditioner.embedders.1.model."):
        if any(key.startswith(prefix) for key in weights):
            named = SimpleNamespace(config=config)
            return dict(single_file.convert_open_clip_checkpoint(named, weights, prefix=prefix))
    return dict(single_file.convert_ldm_clip_checkpoint(weights))
