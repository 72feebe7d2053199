"""The first two stages of training: the autoencoder, and the scenes' latents, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from . import models
from .batches import Said, as_they_are
from .recipes import Recipe
from .renderer import render
from .runs import Checkpoint, log, save

TRAINING_SEEDS = 1_000_000
"""Seeds from here on are trained on; seeds below are held out for scoring."""

CHUNK = 1_000
"""Scenes whose latents share a file."""
PART = 250
"""Scenes that a process renders before it hands them over: some seconds of work."""


class Pictures(NamedTuple):
    """(n, 256, 256, 3) uint8, and what their captions may say."""

    images: NDArray[np.uint8]
    said: list[Said]


@dataclass(frozen=True)
class Parts(Dataset[Pictures]):
    """Training scenes, `PART` an item, in their order."""

    ranges: tuple[range, ...]
    varied: float

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, number: int) -> Pictures:
        scenes = []
        for seed in self.ranges[number]:
            varied = np.random.default_rng([seed, 22]).random() < self.varied
            scenes.append(render(seed, style="varied" if varied else "plain"))
        images = np.stack([scene.image for scene in scenes])
        return Pictures(images, [(scene.visible, scene.colours) for scene in scenes])


class Rendering:
    """The scenes whose latents are missing, rendered by worker processes from its making on.

    What the autoencoder learns from is kept for the latents: nothing is rendered twice.
    """

    def __init__(self, work: Path, recipe: Recipe, workers: int) -> None:
        missing = [each for each in chunks(work, recipe) if not each.path.exists()]
        ranges = tuple(
            range(TRAINING_SEEDS + start, TRAINING_SEEDS + min(start + PART, each.end))
            for each in missing
            for start in range(each.start, each.end, PART)
        )
        loader = DataLoader(
            Parts(ranges, recipe.varied),
            batch_size=None,
            num_workers=workers,
            collate_fn=as_they_are,
            prefetch_factor=max(2, len(ranges)) if workers else None,
        )
        self._coming: Iterator[Pictures] = iter(loader)
        self._kept: list[Pictures] = []

    def first(self, count: int) -> NDArray[np.uint8]:
        """(count, 256, 256, 3), the first pictures that `take` will give."""
        while sum(len(part.images) for part in self._kept) < count:
            self._kept.append(next(self._coming))
        return np.concatenate([part.images for part in self._kept])[:count]

    def take(self, count: int) -> Iterator[Pictures]:
        """The next `count` pictures, a multiple of `PART` or the last."""
        while count > 0:
            part = self._kept.pop(0) if self._kept else next(self._coming)
            count -= len(part.images)
            yield part


class Chunk(NamedTuple):
    """Scenes from `start` up to `end`, and the file of their latents."""

    start: int
    end: int
    path: Path


def chunks(work: Path, recipe: Recipe) -> list[Chunk]:
    starts = range(0, recipe.scenes, CHUNK)
    ends = [min(start + CHUNK, recipe.scenes) for start in starts]
    return [
        Chunk(start, end, work / f"latents-{start:06d}-{end:06d}.pt")
        for start, end in zip(starts, ends, strict=True)
    ]


def pixels(images: NDArray[np.uint8], device: str) -> torch.Tensor:
    """(n, H, W, 3) uint8 → (n, 3, H, W) in [-1, 1], on the device."""
    moved = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return moved.float().div_(127.5).sub_(1)


class PatchComponents:
    """The leading principal components of 16×16 patches: what the latents are drawn towards.

    A convolutional encoder left alone takes very long to find these nearly linear codes; with
    them as a second target it has them in minutes, and the decoder sees useful latents at once.
    """

    def __init__(self, x: torch.Tensor) -> None:
        """Fit to (n, 3, H, W) pictures in [-1, 1]."""
        patches = self._patches(x)[0]
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:20_000]
        self.mean = patches.mean(0)
        sample = patches[chosen.to(x.device)] - self.mean
        _, s, v = torch.linalg.svd(sample.cpu(), full_matrices=False)
        s, v = s.to(x.device), v.to(x.device)
        variances = s[: models.LATENT_CHANNELS] ** 2 / len(chosen)
        basis = v[: models.LATENT_CHANNELS] * variances[:, None] ** -0.25  # half whitened
        self.basis = basis / ((patches - self.mean) @ basis.T).std()

    @staticmethod
    def _patches(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        columns = F.unfold(x, 16, stride=16).permute(0, 2, 1)
        return columns.reshape(-1, columns.shape[-1]), (x.shape[2] // 16, x.shape[3] // 16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) → (n, latent channels, H/16, W/16)."""
        patches, (h, w) = self._patches(x)
        z = (patches - self.mean) @ self.basis.T
        return z.reshape(len(x), h, w, -1).permute(0, 3, 1, 2)


def train_vae(
    work: Path,
    recipe: Recipe,
    rendering: Rendering,
    device: str = "cpu",
    minutes_between: float = 3,
) -> AutoencoderTiny:
    """Fit the autoencoder on random crops; set its scaling factor to 1/std of its latents."""
    done = work / "vae"
    if done.exists():
        return AutoencoderTiny.from_pretrained(done).eval().to(device)
    torch.manual_seed(0)
    vae = AutoencoderTiny(**models.vae_config()).to(device)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.vae_rate, total_steps=recipe.vae_steps + 1, pct_start=0.1
    )
    checkpoint = Checkpoint(
        work / "vae.pt", minutes_between, vae=vae, optimiser=optimiser, schedule=schedule
    )
    images = rendering.first(recipe.vae_scenes)
    components = PatchComponents(pixels(images[:200], device))
    for step in range(checkpoint.resume(), recipe.vae_steps):
        rng = np.random.default_rng([step, 1])
        crop, batch = recipe.vae_crop, []
        for index in rng.integers(0, len(images), recipe.vae_batch):
            top, left = rng.integers(0, 256 - crop + 1, 2)
            batch.append(images[index, top : top + crop, left : left + crop])
        x = pixels(np.stack(batch), device)
        z = vae.encode(x).latents
        guide = F.mse_loss(z, components(x))
        rebuilt = F.mse_loss(vae.decode(z).sample, x)
        optimiser.zero_grad(set_to_none=True)
        (guide + 4 * rebuilt).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % (2 * recipe.log_every) == 0:
            log(work, stage="vae", step=step, guide=guide.item(), rebuilt=rebuilt.item())
        checkpoint.keep(step)
    vae.eval()
    vae.register_to_config(scaling_factor=float(1 / encode(vae, images[:256], 256).std()))
    vae.save_pretrained(done)
    return vae


@torch.inference_mode()
def encode(vae: AutoencoderTiny, images: NDArray[np.uint8], size: int) -> torch.Tensor:
    """(n, H, W, 3) uint8, seen at `size`² → (n, c, size/16, size/16), unscaled.

    Enlarged as `runtime.tiles` does, but for the rounding to whole numbers.
    """
    pieces, count = [], 16 if vae.device.type == "cpu" else 125
    for start in range(0, len(images), count):
        x = pixels(images[start : start + count], str(vae.device))
        if size != x.shape[-1]:
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
        pieces.append(vae.encode(x).latents)
    return torch.cat(pieces)


@dataclass
class TrainingSet:
    """By the size pictures are seen at, (n, c, size/16, size/16) float32 latents, scaled; and what
    each picture's caption may say."""

    latents: dict[int, torch.Tensor]
    said: list[Said]


def encode_scenes(
    work: Path, recipe: Recipe, vae: AutoencoderTiny, rendering: Rendering
) -> TrainingSet:
    """Encode the training scenes once, as they are and mirrored (no caption says left or right),
    in chunks that survive a kill.
    """
    latents: dict[int, list[torch.Tensor]] = {size: [] for size, _ in recipe.sizes}
    said: list[Said] = []
    for start, end, path in chunks(work, recipe):
        if not path.exists():
            parts = list(rendering.take(end - start))
            images = np.concatenate([part.images for part in parts])
            both = (images, np.ascontiguousarray(images[:, :, ::-1]))
            z = {
                size: torch.cat([encode(vae, each, size) for each in both]).half().cpu()
                for size in latents
            }
            save(path, {"z": z, "said": [each for part in parts for each in part.said] * 2})
            log(work, stage="latents", step=start)
        saved = torch.load(path)
        for size, pieces in latents.items():
            pieces.append(saved["z"][size].to(vae.device).float() * vae.config.scaling_factor)
        said += saved["said"]
    return TrainingSet({size: torch.cat(pieces) for size, pieces in latents.items()}, said)
