"""The text encoders of a diffusers pipeline, not yet loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.bundle.contract import TextSpec, text_encoder_name, tokenizer_name
from .components import Pipeline
from .tokens import tokenizer_spec

_PENULTIMATE = -2


@dataclass(frozen=True)
class PipelineText:
    """One text encoder of a pipeline; see `backbones.base.TextPart`."""

    pipeline: Pipeline
    index: int
    spec: TextSpec
    embeddings: int
    layer: int | None
    any_length: bool = False

    def load(self) -> Any:
        """The text encoder."""
        return self.pipeline.text_encoder(self.index)

    def tokenizer(self) -> Any:
        """The tokenizer as transformers reads it."""
        return self.pipeline.tokenizer(self.index)


def text_parts(pipeline: Pipeline, pooled: bool) -> Sequence[PipelineText]:
    """Every text encoder of a pipeline; with `pooled` the network takes the pooled embeddings of
    those that project one, and the last hidden state but one of all."""
    parts = []
    for index in range(pipeline.text_encoders):
        config = pipeline.text_config(index)
        tokens = tokenizer_spec(pipeline.tokenizer(index), config.max_position_embeddings)
        projects = pooled and pipeline.text_class(index).endswith("WithProjection")
        spec = TextSpec(
            text_encoder_name(index),
            tokenizer_name(index),
            tokens,
            config.hidden_size,
            config.projection_dim if projects else 0,
        )
        layer = _PENULTIMATE if pooled else None
        parts.append(PipelineText(pipeline, index, spec, config.vocab_size, layer))
    return parts
