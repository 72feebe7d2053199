"""Vision transformers: CLIP, whose patches are compared with names, and DINOv2, which has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers

from ....runtime.bundle import contract
from ....runtime.bundle.contract import FeatureOutput
from ....runtime.errors import ExportError
from ...graphs import BATCH, CELLS, Graph, spatial_axes
from ...options import ExportOptions
from ...proof import Case, Example, as_example
from ...tokens import tokenizer_spec
from .answers import clip_answers, dino_answers
from .onnx_file import OnnxViT
from .selection import IMAGENET, NETWORK, OF_DINO, Selection, check_options
from .source import Source, find_source
from .towers import ClipTower, DinoTower, resized_positions

_REGISTERS: Final = "dinov2_with_registers"
_NETWORKS: Final = {
    "clip": "CLIPVisionModelWithProjection",
    "dinov2": "Dinov2Model",
    _REGISTERS: "Dinov2WithRegistersModel",
}
_CLIP: Final = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

CLIP_ENLARGED: Final = 512 / 224
"""CLIP is trained on whole pictures of 224² for one vector each. For a map MaskCLIP shows it
windows of 512² and GEM pictures of 448², position embeddings resized; larger models likewise."""


@dataclass(frozen=True)
class ClipText:
    """CLIP's text encoder, whose pooled output is the embedding that pictures are compared with."""

    source: Source
    spec: contract.TextSpec
    embeddings: int
    layer: None = None
    any_length: bool = True

    def load(self) -> Any:
        """The text encoder, with its projection."""
        return self.source.load(transformers.CLIPTextModelWithProjection, self.source.text, "eager")

    def tokenizer(self) -> Any:
        """The tokenizer as transformers reads it."""
        return self.source.tokenizer()


class ViT:
    """A directory with a CLIP or a DINOv2, found and checked; its parts are loaded when they are
    asked for."""

    latent: contract.LatentSpec | None = None
    noise: contract.NoiseSpec | None = None

    def __init__(self, source: Source, options: ExportOptions) -> None:
        """Read the configuration.

        Raises:
            ExportError: it is of no model over pictures in colour, or an option is of others.
        """
        check_options(options)
        self.source, self.model_id = source, source.model_id
        self.kind: str = source.config.model_type
        vision = source.vision
        self.patch, trained = (_side(vision, name) for name in ("patch_size", "image_size"))
        if vision.num_channels != 3:
            raise ExportError(
                f"{source.folder} takes pictures of {vision.num_channels} channels, expected 3"
            )
        enlarged = trained * CLIP_ENLARGED if self.kind == "clip" else trained
        native = max(1, round(enlarged / self.patch)) * self.patch
        mean, deviation = _CLIP if self.kind == "clip" else IMAGENET
        told = source.preprocessing()
        self.image = contract.ImageSpec(
            tuple(told.get("image_mean") or mean),
            tuple(told.get("image_std") or deviation),
            native,
            self.patch,
        )
        self.texts: Sequence[ClipText] = [_text(source)] if self.kind == "clip" else []
        self.selection = self._selection(vision.hidden_size)
        self.recommended: Mapping[str, Mapping[str, Any]] = {} if self.texts else OF_DINO

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, and registers."""
        return 1 + getattr(self.source.config, "num_register_tokens", 0)

    def vae(self) -> Any:
        """There is none.

        Raises:
            ExportError: always.
        """
        raise ExportError(f"{self.model_id} sees pixels and has no VAE")

    def network(self) -> Any:
        """The vision transformer, and of CLIP its projection."""
        kind = getattr(transformers, _NETWORKS[self.kind])
        return self.source.load(kind, self.source.vision, "sdpa")

    def examples(self, network: Any, cases: Sequence[Case]) -> dict[str, list[Example]]:
        """Random pictures, and what the model says of them by its own forward pass."""
        random = torch.Generator().manual_seed(0)
        examples = []
        for case in cases:
            image = torch.randn(case.batch, 3, case.height, case.width, generator=random)
            if self.kind == "clip":
                found = clip_answers(network, image)
            else:
                found = (dino_answers(network, self.prefix, image),)
            grid = (case.height // self.patch, case.width // self.patch)
            maps = [each.transpose(1, 2).unflatten(2, grid) for each in found]
            names = contract.output_names(self.selection)
            named = dict(zip(names, maps, strict=True))
            examples.append(as_example({contract.IMAGE: image}, named))
        return {NETWORK: examples}

    @contextmanager
    def graphs(self, network: Any, dtype: torch.dtype) -> Iterator[Sequence[Callable[[], Graph]]]:
        """The one graph."""
        freezes = self.kind == _REGISTERS  # the size it is traced at
        positions = resized_positions(network.embeddings, self.patch) if freezes else nullcontext()
        with positions:
            yield (lambda: self._graph(network, dtype),)

    def _graph(self, network: Any, dtype: torch.dtype) -> Graph:
        tower = (
            ClipTower(network, self.patch, dtype)
            if self.kind == "clip"
            else DinoTower(network, self.patch, self.prefix, dtype)
        )
        height, width = (cells * self.patch for cells in CELLS)
        return Graph(
            NETWORK,
            tower,
            {contract.IMAGE: torch.zeros(BATCH, 3, height, width)},
            {contract.IMAGE: spatial_axes(self.patch)},
            dict.fromkeys(contract.output_names(self.selection), (0, 2, 3)),
            shared=True,
        )

    def _selection(self, width: int) -> Selection:
        def output(name: str, channels: int) -> FeatureOutput:
            return FeatureOutput(name, self.patch, channels)

        features = (output(contract.features_name(self.patch), width),)
        if self.kind != "clip":
            return Selection(features)
        embedding = int(self.source.config.projection_dim)
        channels = {contract.MASKCLIP: embedding, contract.MASKCLIP_KEYS: width}
        channels |= {contract.GEM: embedding}
        return Selection(
            features,
            tuple(
                output(contract.aligned_name(kind, self.patch), count)
                for kind, count in channels.items()
            ),
        )


def _text(source: Source) -> ClipText:
    config = source.text
    tokens = tokenizer_spec(source.tokenizer(), config.max_position_embeddings)
    spec = contract.TextSpec(
        contract.text_encoder_name(0),
        contract.tokenizer_name(0),
        tokens,
        config.hidden_size,
        config.projection_dim,
    )
    return ClipText(source, spec, config.vocab_size)


def _side(config: Any, name: str) -> int:
    """A size in pixels that is the same along both sides."""
    value = getattr(config, name)
    sides = set(value if isinstance(value, list | tuple) else [value])
    if len(sides) != 1 or not all(type(side) is int and side > 0 for side in sides):
        raise ExportError(f"the model's {name} is {value!r}, expected pixels a side, as 14")
    return int(sides.pop())


__all__ = ["OnnxViT", "ViT", "find_source"]
