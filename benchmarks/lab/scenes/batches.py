"""What a training step needs of its scenes: which, at what timestep, with what caption.

All of it follows from the number of the step, so worker processes can prepare blocks of steps
ahead and a resumed run goes on as if it had not been stopped. Nothing here touches a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from . import models
from .captions import caption
from .recipes import Recipe, Round
from .renderer import Scene

BLOCK = 50
"""Steps prepared and copied to the device at once."""

Said = tuple[tuple[str, ...], dict[str, tuple[str, ...]]]
"""The visible classes of a scene and their colour words: what its caption may say."""


def describe(said: Said, rng: np.random.Generator, **shares: float) -> str:
    """A caption; `shares` as `captions.caption` takes them."""
    nothing = np.zeros((0, 0), dtype=np.uint8)
    return caption(Scene(nothing, nothing, *said), rng, **shares)


class Vocabulary:
    """Captions → token ids: what the tokenizer gives for words that are one token each."""

    def __init__(self, tokenizer: Path) -> None:
        number: dict[str, int] = json.loads((tokenizer / "vocab.json").read_text())
        ending = "</w>"
        self._number = {
            token.removesuffix(ending): index
            for token, index in number.items()
            if token.endswith(ending)
        }
        self._begin, self._end = number["<|startoftext|>"], number["<|endoftext|>"]

    def __call__(self, captions: list[str]) -> NDArray[np.int64]:
        """(n, `models.MAX_LENGTH`) ids; begin, words, end, and ends for padding."""
        ids = np.full((len(captions), models.MAX_LENGTH), self._end, np.int64)
        ids[:, 0] = self._begin
        for row, text in zip(ids, captions, strict=True):
            words = [self._number[word] for word in text.replace(",", " ,").split()]
            words = words[: len(row) - 2]  # as CLIP's tokenizer cuts: the end stays
            row[1 : 1 + len(words)] = words
        return ids


class StepBatch(NamedTuple):
    """One step's scenes: their positions (n,), timesteps (n,) and token ids (n, length)."""

    index: torch.Tensor
    t: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True)
class Blocks(Dataset[list[tuple[NDArray[np.int64], ...]]]):
    """The batches of a round's steps, `BLOCK` steps an item."""

    recipe: Recipe
    this: Round
    said: list[Said]
    vocabulary: Vocabulary
    before: int
    """Steps of the rounds before: what follows from a step counts from the first round's."""
    start: int
    """First step of the round that is asked for."""

    def __len__(self) -> int:
        steps = 10**7 if self.this.steps is None else self.this.steps - self.start
        return -(-steps // BLOCK)

    def __getitem__(self, number: int) -> list[tuple[NDArray[np.int64], ...]]:
        begin = self.start + number * BLOCK
        end = begin + BLOCK if self.this.steps is None else min(begin + BLOCK, self.this.steps)
        return [self.batch(self.before + step) for step in range(begin, end)]

    def batch(self, step: int) -> tuple[NDArray[np.int64], ...]:
        recipe, this = self.recipe, self.this
        rng = np.random.default_rng([step, 2])
        count = recipe.sizes[step % len(recipe.sizes)][1]
        index = rng.integers(0, len(self.said), count)
        shares = {"synonyms": this.synonyms, "lists": this.lists, "full": this.full}
        captions = [
            "" if rng.random() < recipe.empty_captions else describe(self.said[i], rng, **shares)
            for i in index
        ]
        t = (1000 * rng.random(count) ** recipe.timestep_power).astype(np.int64)
        return index, t, self.vocabulary(captions)


def as_they_are(item: object) -> object:
    """NumPy arrays come from worker processes through a pipe, not through shared memory."""
    return item


def prepared(blocks: Blocks, device: str, workers: int) -> Iterator[StepBatch]:
    """The batches on the device, in the order of the steps, made ahead by worker processes."""
    loader = DataLoader(
        blocks,
        batch_size=None,
        num_workers=workers,
        collate_fn=as_they_are,
        prefetch_factor=4 if workers else None,
    )
    for block in loader:
        counts = [len(step[0]) for step in block]
        joined = map(np.concatenate, zip(*block, strict=True))
        parts = (torch.from_numpy(each).to(device).split(counts) for each in joined)
        yield from map(StepBatch, *parts)
