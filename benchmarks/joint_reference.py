"""MaskDiffusion on a transformer of pictures and words together, in plain PyTorch and diffusers.

The oracle beside `reference`, for Stable Diffusion 3: diffusers' own pipeline encodes the prompt,
its missing T5 included, and runs the whole transformer; hooks of this file's own keep queries and
keys, and the whole matrix of all of them is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .reference import Observation, Reference


class JointReference(Reference):
    """A directory of Stable Diffusion 3 or 3.5, in float32; the mathematics after the network runs
    in `dtype`. `blocks` are those whose attention is read; the last one's picture is the features.
    """

    def __init__(
        self,
        pipeline: str | Path,
        blocks: Sequence[int],
        dtype: torch.dtype = torch.float64,
        vae: str | Path | None = None,
    ) -> None:
        self.pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
            pipeline, text_encoder_3=None, tokenizer_3=None, use_safetensors=True
        ).to(torch.float32)
        self.vae = self.pipeline.vae if vae is None else self._load_vae(Path(vae))
        self.tokenizer, self.scheduler = self.pipeline.tokenizer, self.pipeline.scheduler
        self.blocks, self.dtype = tuple(blocks), dtype

    def side(self) -> int:
        """Pixels a side of the pictures that the transformer was trained on."""
        return int(self.pipeline.transformer.config.sample_size * self._cell())

    @torch.no_grad()
    def _observe(
        self,
        image: npt.NDArray[np.uint8],
        prompt: str,
        noise: npt.NDArray[np.float32] | None,
        t: int,
    ) -> Observation:
        """One pass of the whole transformer on the latent of `image`, (1 − σ) z + σ ε unless
        `noise` is None."""
        latent, sigma = self.encode(image), self.scheduler.sigmas.double().flip(0)[t]
        if noise is not None:
            rows, columns = (torch.arange(n) for n in latent.shape[2:])
            own = torch.from_numpy(noise)
            repeated = own[:, rows % own.shape[1]][:, :, columns % own.shape[2]]
            latent = ((1 - sigma) * latent + sigma * repeated).float()
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=77
        )
        transformer, seen = self.pipeline.transformer, dict[tuple[int, str], Tensor]()
        with ExitStack() as hooks:
            for index in self.blocks:
                block = transformer.transformer_blocks[index]
                watched = {"picture": block} | {
                    name: getattr(block.attn, norm, None) or getattr(block.attn, name)
                    for name, norm in (
                        ("to_q", "norm_q"),
                        ("to_k", "norm_k"),
                        ("add_k_proj", "norm_added_k"),
                    )
                }
                for name, module in watched.items():
                    keep = partial(_keep, seen, (index, name))
                    hooks.callback(module.register_forward_hook(keep).remove)
            transformer(latent, states, pooled, (1000 * sigma).float()[None])
        patch = transformer.config.patch_size
        grid = (latent.shape[2] // patch, latent.shape[3] // patch)
        picture = seen[max(self.blocks), "picture"].T.unflatten(1, grid).to(self.dtype)
        heads = transformer.config.num_attention_heads
        logits = [self._logits(seen, index, heads, grid) for index in self.blocks]
        return Observation([picture], logits)

    def _logits(
        self, seen: dict[tuple[int, str], Tensor], index: int, heads: int, grid: tuple[int, int]
    ) -> Tensor:
        """(heads, words, h, w): log softmax over patches and words of what a patch asks."""
        query, own, words = (
            part if part.ndim == 3 else part.unflatten(1, (heads, -1)).transpose(0, 1)
            for part in (seen[index, name] for name in ("to_q", "to_k", "add_k_proj"))
        )
        keys = torch.cat([own, words], dim=1).to(self.dtype)
        asked = query.to(self.dtype) @ keys.transpose(1, 2) / query.shape[2] ** 0.5
        pixels = grid[0] * grid[1]
        of_words = asked.log_softmax(dim=2)[:, :, pixels:][..., : self.tokenizer.model_max_length]
        return of_words.transpose(1, 2).unflatten(2, grid)


def _keep(
    seen: dict[tuple[int, str], Tensor], key: tuple[int, str], _module: Any, _args: Any, found: Any
) -> None:
    """Of the one row; of a block, which gives words and picture, the picture."""
    seen[key] = (found[1] if isinstance(found, tuple) else found)[0]
