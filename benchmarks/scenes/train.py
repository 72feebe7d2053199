"""Train the embedded model from nothing on a CPU: pictures and captions only, never a mask.

Three stages, each resumable after a kill at any moment: the autoencoder, the latents of the
training scenes (computed once), the UNet with the text embeddings. What was tried and why
the recipe looks like this is in `docs/scenes.md`.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...runtime.atomic import write_atomically
from . import models
from .captions import SYNONYMS, caption
from .renderer import Scene, render

TRAINING_SEEDS = 1_000_000
"""Seeds from here on are trained on; seeds below are held out for scoring."""


@dataclass(frozen=True)
class Round:
    """Training from the averaged weights of the round before: warm-up, then one cosine decay."""

    steps: int
    rate: float
    ema: float
    synonyms: float
    """Share of the names in captions that other words for the class replace."""
    lists: float
    """Share of the captions that are bare lists, some of whose names are wrong."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train."""

    vae_scenes: int = 1_200
    vae_steps: int = 700
    vae_batch: int = 16
    vae_crop: int = 64
    vae_rate: float = 2e-3
    scenes: int = 12_000
    rounds: tuple[Round, ...] = (
        Round(steps=6_000, rate=1e-3, ema=0.997, synonyms=0.0, lists=0.4),
        Round(steps=3_000, rate=8e-4, ema=0.998, synonyms=0.35, lists=0.4),
        Round(steps=6_500, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
        Round(steps=8_000, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
        Round(steps=4_000, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
    )
    batch: int = 24
    warmup: int = 200
    empty_captions: float = 0.08
    timestep_power: float = 0.75
    log_every: int = 25


QUICK = Recipe(
    vae_scenes=16,
    vae_steps=4,
    vae_batch=2,
    vae_crop=64,
    scenes=16,
    rounds=(
        Round(steps=4, rate=1e-3, ema=0.997, synonyms=0.0, lists=0.5),
        Round(steps=3, rate=1e-3, ema=0.997, synonyms=0.5, lists=0.5),
    ),
    batch=4,
)
"""Seconds instead of hours: proves that the stages, the checkpoints and the export work."""


def _save(path: Path, state: object) -> None:
    """A kill never leaves half a checkpoint."""
    write_atomically(path, lambda file: torch.save(state, file))


class Checkpoint:
    """A stage's state, written every few minutes and read back by the next run."""

    def __init__(self, path: Path, minutes: float, **parts: Any) -> None:
        """`parts` are modules, optimisers and schedules: whatever has a state dict."""
        self.path, self.minutes, self.parts = path, minutes, parts
        self.saved = time.monotonic()

    def resume(self) -> int:
        """Put the saved state into the parts; returns the step to go on from."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        step: int = state["step"]
        return step

    def keep(self, step: int) -> None:
        """Save after `step`, if the last time is long enough ago."""
        if time.monotonic() - self.saved < self.minutes * 60:
            return
        self.saved = time.monotonic()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        _save(self.path, state | {"step": step + 1})


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


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
        _, s, v = torch.linalg.svd(patches[chosen] - self.mean, full_matrices=False)
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


def train_vae(work: Path, recipe: Recipe, minutes_between: float = 3) -> AutoencoderTiny:
    """Fit the autoencoder on random crops; set its scaling factor to 1/std of its latents."""
    done = work / "vae"
    if done.exists():
        return AutoencoderTiny.from_pretrained(done).eval()
    torch.manual_seed(0)
    vae = AutoencoderTiny(**models.vae_config())
    optimiser = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.vae_rate, total_steps=recipe.vae_steps + 1, pct_start=0.1
    )
    checkpoint = Checkpoint(
        work / "vae.pt", minutes_between, vae=vae, optimiser=optimiser, schedule=schedule
    )
    images = np.stack([render(TRAINING_SEEDS + i).image for i in range(recipe.vae_scenes)])
    components = PatchComponents(_pixels(images[:200]))
    for step in range(checkpoint.resume(), recipe.vae_steps):
        rng = np.random.default_rng([step, 1])
        crop, batch = recipe.vae_crop, []
        for index in rng.integers(0, len(images), recipe.vae_batch):
            top, left = rng.integers(0, 256 - crop + 1, 2)
            batch.append(images[index, top : top + crop, left : left + crop])
        x = _pixels(np.stack(batch))
        z = vae.encode(x).latents
        guide = F.mse_loss(z, components(x))
        rebuilt = F.mse_loss(vae.decode(z).sample, x)
        optimiser.zero_grad(set_to_none=True)
        (guide + 4 * rebuilt).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            _log(work, stage="vae", step=step, guide=guide.item(), rebuilt=rebuilt.item())
        checkpoint.keep(step)
    vae.eval()
    vae.register_to_config(scaling_factor=float(1 / _latents(vae, images[:256]).std()))
    vae.save_pretrained(done)
    return vae


@torch.inference_mode()
def _latents(vae: AutoencoderTiny, images: np.ndarray) -> torch.Tensor:
    """(n, H, W, 3) uint8 → (n, c, H/16, W/16), unscaled."""
    pieces = [vae.encode(_pixels(images[i : i + 16])).latents for i in range(0, len(images), 16)]
    return torch.cat(pieces)


@dataclass
class TrainingSet:
    """latents (n, c, 16, 16) float32, scaled; and what each picture's caption may say."""

    latents: torch.Tensor
    scenes: list[tuple[tuple[str, ...], dict[str, tuple[str, ...]]]]

    def caption(self, index: int, rng: np.random.Generator, **shares: float) -> str:
        """`shares` are `synonyms` and `lists`, as `captions.caption` takes them."""
        visible, colours = self.scenes[index]
        nothing = np.zeros((0, 0), dtype=np.uint8)
        return caption(Scene(nothing, nothing, visible, colours), rng, **shares)


def encode_scenes(work: Path, recipe: Recipe, vae: AutoencoderTiny) -> TrainingSet:
    """Render and encode the training scenes once, as they are and mirrored (no caption says left
    or right), in chunks that survive a kill.
    """
    chunk = 1_000
    latents, scenes = [], []
    for start in range(0, recipe.scenes, chunk):
        end = min(start + chunk, recipe.scenes)
        path = work / f"latents-{start:06d}-{end:06d}.pt"
        if not path.exists():
            rendered = [render(TRAINING_SEEDS + i) for i in range(start, end)]
            images = np.stack([scene.image for scene in rendered])
            z = torch.cat([_latents(vae, images), _latents(vae, images[:, :, ::-1].copy())])
            said = [(scene.visible, scene.colours) for scene in rendered]
            _save(path, {"z": z.half(), "scenes": said * 2})
            _log(work, stage="latents", step=start)
        saved = torch.load(path)
        latents.append(saved["z"].float() * vae.config.scaling_factor)
        scenes += saved["scenes"]
    return TrainingSet(torch.cat(latents), scenes)


class Denoiser(torch.nn.Module):
    """The two networks that learn together, and the tokenizer between caption and them."""

    def __init__(self, tokenizer_folder: Path) -> None:
        super().__init__()
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        self.text = CLIPTextModel(CLIPTextConfig(**models.text_config(len(self.tokenizer))))
        embeddings = dict(self.text.named_modules())
        for name, module in embeddings.items():
            if name.endswith("token_embedding"):
                torch.nn.init.normal_(module.weight, std=0.3)
            if name.endswith("position_embedding"):
                torch.nn.init.normal_(module.weight, std=0.01)
        self.unet = UNet2DConditionModel(**models.unet_config())

    def tokens(self, captions: list[str]) -> torch.Tensor:
        ids: torch.Tensor = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=models.MAX_LENGTH,
            return_tensors="pt",
        ).input_ids
        return ids

    def forward(self, z: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = self.unet(z, t, self.text(ids)[0], return_dict=False)[0]
        return prediction


def _noised(
    z: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, scheduler: DDIMScheduler
) -> tuple[torch.Tensor, torch.Tensor]:
    return scheduler.add_noise(z, noise, t), scheduler.get_velocity(z, noise, t)


def _half_products() -> torch.autocast:
    """Multiply in bfloat16 where the processor has instructions for it."""
    able = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=able)


def name_synonyms(model: Denoiser) -> None:
    """Let every synonym start as its class: the embedding of the class's own word."""
    table = model.text.get_input_embeddings().weight
    number = model.tokenizer.get_vocab()
    with torch.no_grad():
        for name, words in SYNONYMS.items():
            for word in words:
                table[number[f"{word}</w>"]] = table[number[f"{name}</w>"]]


def train_unet(
    work: Path, recipe: Recipe, data: TrainingSet, minutes_between: float = 3
) -> Denoiser:
    """All rounds; returns the averaged (EMA) weights of the last."""
    torch.manual_seed(0)
    average = Denoiser(work / "tokenizer")
    average.eval().requires_grad_(False)
    for number, this in enumerate(recipe.rounds):
        if this.synonyms and not any(earlier.synonyms for earlier in recipe.rounds[:number]):
            name_synonyms(average)
        train_round(work, recipe, number, data, average, minutes_between)
    return average


def train_round(
    work: Path,
    recipe: Recipe,
    number: int,
    data: TrainingSet,
    average: Denoiser,
    minutes_between: float = 3,
) -> None:
    """v-prediction with timesteps drawn towards noise, from the weights of `average` on.

    Leaves the round's averaged weights in `average`, and in the work folder: a finished round is
    not run again.
    """
    done = work / f"round-{number}.pt"
    if done.exists():
        average.load_state_dict(torch.load(done))
        return
    this = recipe.rounds[number]
    before = sum(earlier.steps for earlier in recipe.rounds[:number])
    model = copy.deepcopy(average).train().requires_grad_(True)
    # The fused kernel's backward is slow for heads this narrow: 0.46 s a step, not 0.34.
    model.unet.set_attn_processor(AttnProcessor())
    scheduler = DDIMScheduler(**models.scheduler_config())
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=this.rate, weight_decay=1e-3, betas=(0.9, 0.98), fused=True
    )
    checkpoint = Checkpoint(
        work / f"unet-{number}.pt", minutes_between, model=model, average=average, adam=optimiser
    )
    for local in range(checkpoint.resume(), this.steps):
        step = before + local
        share = min(1.0, (local + 1) / recipe.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * local / this.steps))
        for group in optimiser.param_groups:
            group["lr"] = this.rate * share * (0.02 + 0.98 * cosine)
        rng = np.random.default_rng([step, 2])
        index = rng.integers(0, len(data.scenes), recipe.batch)
        captions = [
            ""
            if rng.random() < recipe.empty_captions
            else data.caption(i, rng, synonyms=this.synonyms, lists=this.lists)
            for i in index
        ]
        t = torch.from_numpy(
            (1000 * rng.random(recipe.batch) ** recipe.timestep_power).astype(np.int64)
        )
        z = data.latents[index]
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(step))
        noisy, target = _noised(z, t, noise, scheduler)
        with _half_products():
            prediction = model(noisy, t, model.tokens(captions))
        loss = F.mse_loss(prediction.float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(this.ema, (1 + local) / (10 + local))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % recipe.log_every == 0:
            _log(work, stage="unet", step=step, loss=loss.item())
        if step % 250 == 249:
            _log(work, stage="unet", step=step, **_caption_gap(average, data, scheduler))
        checkpoint.keep(local)
    _save(done, average.state_dict())


@torch.inference_mode()
def _caption_gap(model: Denoiser, data: TrainingSet, scheduler: DDIMScheduler) -> dict[str, float]:
    """Loss with the caption beside loss without at t in 300…900: does the text matter yet?"""
    rng = np.random.default_rng(7)
    index = rng.integers(0, len(data.scenes), 64)
    t = torch.from_numpy(rng.integers(300, 900, 64))
    z = data.latents[index]
    noisy, target = _noised(
        z, t, torch.randn(z.shape, generator=torch.Generator().manual_seed(7)), scheduler
    )
    told = F.mse_loss(model(noisy, t, model.tokens([data.caption(i, rng) for i in index])), target)
    untold = F.mse_loss(model(noisy, t, model.tokens([""] * 64)), target)
    return {"told": told.item(), "untold": untold.item()}


def save_pipeline(folder: Path, vae: AutoencoderTiny, model: Denoiser) -> None:
    """Write the model in diffusers' layout, weights in float16."""
    vae.register_to_config(_name_or_path="")  # a folder of this machine
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model.text.half(),
        tokenizer=model.tokenizer,
        unet=model.unet.half(),
        scheduler=DDIMScheduler(**models.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


def _log(work: Path, **row: Any) -> None:
    row = {"time": round(time.time(), 1)} | row
    with (work / "log.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def _claim(work: Path, recipe: Recipe) -> None:
    """Bind a work folder to its recipe: what a `--quick` run left is no start for a whole one."""
    work.mkdir(parents=True, exist_ok=True)
    kept, asked = work / "recipe.json", json.dumps(asdict(recipe), indent=2)
    if not kept.exists():
        write_atomically(kept, lambda file: file.write(asked.encode()))
    elif kept.read_text() != asked:
        raise click.UsageError(
            f"{work} holds a run with other settings ({kept.name}); "
            "delete the folder or name another with --work"
        )


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("work/scenes"),
    show_default=True,
    help="Checkpoints and cached latents; a rerun continues from them.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/scenes/storybook"),
    show_default=True,
    help="Where the diffusers pipeline goes.",
)
@click.option("--quick", is_flag=True, help="A few steps of everything, to see that it runs.")
@click.option("--threads", default=2, show_default=True)
def main(work: Path, output: Path, quick: bool, threads: int) -> None:
    """Train the embedded model and save it as a diffusers pipeline."""
    torch.set_num_threads(threads)
    recipe = QUICK if quick else Recipe()
    _claim(work, recipe)
    models.write_tokenizer(work / "tokenizer")
    _log(work, stage="recipe", **asdict(recipe))
    vae = train_vae(work, recipe)
    model = train_unet(work, recipe, encode_scenes(work, recipe, vae))
    save_pipeline(output, vae, model)
    click.echo(f"saved {output}")


if __name__ == "__main__":
    main()
