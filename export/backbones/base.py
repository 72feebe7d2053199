"""What the exporter asks of a family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from ...runtime.bundle import contract
from ..graphs import Graph, GraphFile
from ..proof import Case, Example


class TextPart(Protocol):
    """One text encoder, not yet loaded.

    Attributes:
        spec: as in the manifest.
        embeddings: tokens that it has a vector for.
        layer: the hidden state that the network takes, None for the last and its norm.
        any_length: whether the network takes no hidden states, so that prompts may be as short as
            they are.
    """

    @property
    def spec(self) -> contract.TextSpec: ...
    @property
    def embeddings(self) -> int: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def any_length(self) -> bool: ...

    def load(self) -> Any:
        """The text encoder."""

    def tokenizer(self) -> Any:
        """The tokenizer as transformers reads it."""


class Backbone(Protocol):
    """A model that was found and checked; its parts are loaded when they are asked for, in float32.

    Attributes:
        model_id: its name.
        image, latent, noise: as in the manifest.
        texts: its text encoders.
        recommended: what the manifest recommends where the user does not.
        selection: what its network is to give out, and the file name of that graph.
    """

    model_id: str
    image: contract.ImageSpec

    @property
    def latent(self) -> contract.LatentSpec | None: ...
    @property
    def noise(self) -> contract.NoiseSpec | None: ...
    @property
    def texts(self) -> Sequence[TextPart]: ...
    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def selection(self) -> contract.Outputs: ...

    def vae(self) -> Any:
        """The autoencoder, of a model that sees latents."""

    def network(self) -> Any:
        """The network, whole."""

    def examples(self, network: Any, cases: Sequence[Case]) -> dict[str, list[Example]]:
        """Random inputs of every graph that `graphs` gives, by file name, and what the plain
        network answers."""

    def graphs(
        self, network: Any, dtype: torch.dtype
    ) -> AbstractContextManager[Sequence[Callable[[], Graph | GraphFile]]]:
        """A context in which the network is as it is to be traced, and what makes each of its
        graphs: its own first, then those of keys and values where it has them."""
