"""Vision transformers in plain PyTorch: image in, labels out, at full resolution.

The oracle beside `reference`, for models without noise: transformers' own forward pass and
tokenizer, every score resized to the picture, its mathematics from `naive`. One pass over the whole
picture: no tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..export.backbones import open_backbone
from ..export.backbones.vit import OnnxViT, ViT
from ..export.backbones.vit.answers import clip_answers, dino_answers
from ..export.options import ExportOptions
from ..runtime.heads.templates import ONE
from . import naive

Names = str | tuple[str, ...]
Labels = NDArray[np.int64]

NAMED = ("maskclip", "gem")
"""The heads that compare patches with names, each with the one sentence "a photo of a …"."""


class TowerReference:
    """A CLIP or DINOv2 directory, or an ONNX file, in float32."""

    def __init__(self, model: str | Path) -> None:
        backbone = open_backbone(model, ExportOptions())
        assert isinstance(backbone, ViT | OnnxViT)
        self.backbone, self.network = backbone, backbone.network()

    def named(self, image: NDArray[np.uint8], classes: Sequence[Names]) -> dict[str, Labels]:
        """Labels (H, W) by every head of `NAMED`, of a CLIP."""
        _, values, _, stream = self._answers(image)
        names = self._names(classes)
        return {
            head: self._resized(maps @ names.T, image).argmax(dim=0).numpy()
            for head, maps in zip(NAMED, (values, stream), strict=True)
        }

    def clustered(self, image: NDArray[np.uint8], clusters: Tensor) -> Labels:
        """Labels (H, W) by Eq. 5 and 6 on the one-hot maps of clusters (rows, columns)."""
        features = [self._map(self._answers(image)[0], image)]
        weights = naive.cluster_weights(clusters, int(clusters.max()) + 1, torch.float32)
        rows, columns = clusters.shape
        prototypes = naive.prototypes(features, weights, (rows, columns), "paper")
        labels = naive.assign(features, prototypes, (image.shape[0], image.shape[1]), "paper")
        return np.asarray(labels.numpy(), dtype=np.int64)

    def _answers(self, image: NDArray[np.uint8]) -> Sequence[Tensor]:
        """What the network says of one picture's patches: (patches, channels) each."""
        spec = self.backbone.image
        mean, deviation = (
            torch.tensor(v, dtype=torch.float32) for v in (spec.mean, spec.deviation)
        )
        pixels = (torch.from_numpy(image.copy()).float() / 255 - mean) / deviation
        batch = pixels.permute(2, 0, 1)[None].contiguous()
        if isinstance(self.backbone, OnnxViT):
            (maps,) = self.backbone.source.run([batch.numpy()])
            return [torch.from_numpy(maps[0]).flatten(1).T]
        if self.backbone.texts:
            return [found[0] for found in clip_answers(self.network, batch)]
        return [dino_answers(self.network, self.backbone.prefix, batch)[0]]

    @torch.no_grad()
    def _names(self, classes: Sequence[Names]) -> Tensor:
        """(classes, embedding), of length 1."""
        (text,) = self.backbone.texts
        encoder, tokenizer = text.load(), text.tokenizer()
        found = []
        for names in classes:
            names = (names,) if isinstance(names, str) else names
            sentences = [template.format(name) for name in names for template in ONE]
            ids: Any = tokenizer(
                sentences, padding="max_length", max_length=text.spec.tokens.max_length
            ).input_ids
            embeddings = functional.normalize(encoder(torch.tensor(ids)).text_embeds, dim=-1)
            found.append(functional.normalize(embeddings.mean(dim=0), dim=0))
        return torch.stack(found)

    def _map(self, patches: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """(channels, rows, columns) of (patches, channels)."""
        multiple = self.backbone.image.size_multiple
        return patches.T.unflatten(1, (image.shape[0] // multiple, image.shape[1] // multiple))

    def _resized(self, scores: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """(channels, H, W) of (patches, channels)."""
        return naive.resize(self._map(scores, image), (image.shape[0], image.shape[1]))
