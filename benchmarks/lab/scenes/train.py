"""Train the embedded model from nothing: pictures and captions only, never a mask.

Three stages, each resumable after a kill at any moment: the autoencoder, the latents of the
training scenes (computed once), the UNet with the text embeddings. What was tried and why
the recipe looks like this is in `docs/notes/scenes.md`. On a CPU it takes hours, on a GPU minutes.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ....runtime.disk.atomic import write_atomically
from . import models
from .autoencoder import Rendering, TrainingSet, encode_scenes, train_vae
from .batches import Blocks, Vocabulary, describe, prepared
from .captions import SYNONYMS
from .recipes import QUICK, RECIPES, Recipe, Round
from .runs import Checkpoint, claim, log, save
from .steps import Stepper, noised


class Denoiser(torch.nn.Module):
    """The two networks that learn together, and the tokenizer between caption and them."""

    def __init__(self, tokenizer_folder: Path) -> None:
        super().__init__()
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        self.vocabulary = Vocabulary(tokenizer_folder)
        self.text = CLIPTextModel(CLIPTextConfig(**models.text_config(len(self.tokenizer))))
        embeddings = dict(self.text.named_modules())
        for name, module in embeddings.items():
            if name.endswith("token_embedding"):
                torch.nn.init.normal_(module.weight, std=0.3)
            if name.endswith("position_embedding"):
                torch.nn.init.normal_(module.weight, std=0.01)
        self.unet = UNet2DConditionModel(**models.unet_config())

    def forward(self, z: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = self.unet(z, t, self.text(ids)[0], return_dict=False)[0]
        return prediction


def name_synonyms(model: Denoiser) -> None:
    """Let every synonym start as its class: the embedding of the class's own word."""
    table = model.text.get_input_embeddings().weight
    number = model.tokenizer.get_vocab()
    with torch.no_grad():
        for name, words in SYNONYMS.items():
            for word in words:
                table[number[f"{word}</w>"]] = table[number[f"{name}</w>"]]


@dataclass(frozen=True)
class Setup:
    """Where and how a run works; none of it is the recipe's."""

    device: str = "cpu"
    workers: int = 0
    """Processes that render and prepare captions; 0: this one does."""
    eager: bool = False
    """On a GPU, launch a step's kernels one by one instead of as a recorded graph."""
    minutes: float | None = None
    """What a round without a number of steps takes."""
    minutes_between: float = 3
    """Between checkpoints: what a kill costs at most."""
    snapshot: Callable[[Denoiser], None] | None = None
    """Called with the averaged weights after every checkpoint."""
    start: Path | None = None
    """A pipeline whose UNet and text embeddings the first round goes on from."""


def train_unet(work: Path, recipe: Recipe, data: TrainingSet, setup: Setup) -> Denoiser:
    """All rounds; returns the averaged (EMA) weights of the last."""
    torch.manual_seed(0)
    average: Denoiser = Denoiser(work / "tokenizer").to(setup.device)
    average.eval().requires_grad_(False)
    if setup.start:
        average.unet.load_state_dict(_weights(UNet2DConditionModel, setup.start, "unet"))
        average.text.load_state_dict(_weights(CLIPTextModel, setup.start, "text_encoder"))
    for number, this in enumerate(recipe.rounds):
        named = setup.start or any(earlier.synonyms for earlier in recipe.rounds[:number])
        if this.synonyms and not named:
            name_synonyms(average)
        train_round(work, recipe, number, data, average, setup)
    return average


def _weights(kind: Any, pipeline: Path, part: str) -> dict[str, torch.Tensor]:
    """One part of a pipeline as float32 tensors by name."""
    state: dict[str, torch.Tensor] = kind.from_pretrained(pipeline / part).float().state_dict()
    return state


def train_round(
    work: Path, recipe: Recipe, number: int, data: TrainingSet, average: Denoiser, setup: Setup
) -> None:
    """v-prediction with timesteps drawn towards noise, from the weights of `average` on.

    Leaves the round's averaged weights in `average`, and in the work folder: a finished round is
    not run again.
    """
    done = work / f"round-{number}.pt"
    if done.exists():
        average.load_state_dict(torch.load(done, map_location="cpu"))
        return
    this, on_gpu = recipe.rounds[number], setup.device == "cuda"
    before = sum(earlier.steps or 0 for earlier in recipe.rounds[:number])
    model = copy.deepcopy(average).train().requires_grad_(True)
    if not on_gpu:
        # The fused kernel's backward is slow for heads this narrow: 0.46 s a step, not 0.34.
        model.unet.set_attn_processor(AttnProcessor())
    scheduler = DDIMScheduler(**models.scheduler_config())
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=this.rate,
        weight_decay=1e-3,
        betas=(0.9, 0.98),
        fused=True,
        capturable=on_gpu,
    )
    checkpoint = Checkpoint(
        work / f"unet-{number}.pt",
        setup.minutes_between,
        model=model,
        average=average,
        adam=optimiser,
    )
    first = checkpoint.resume()
    stepper = Stepper(model, optimiser, scheduler, data.latents, setup.device, setup.eager)
    blocks = Blocks(recipe, this, data.said, model.vocabulary, before, first)
    for local, batch in enumerate(prepared(blocks, setup.device, setup.workers), start=first):
        step = before + local
        part = _part(this, local, checkpoint.seconds(), setup.minutes)
        if part >= 1:
            break
        rate = this.rate * min(1.0, (local + 1) / recipe.warmup)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))
        size = recipe.sizes[step % len(recipe.sizes)][0]
        loss = stepper(size, step, batch, rate)
        decay = min(this.ema, (1 + local) / (10 + local))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % recipe.log_every == 0:
            found = loss.item()
            log(work, stage="unet", step=step, loss=found, seconds=round(checkpoint.seconds(), 1))
            if not math.isfinite(found):
                raise click.ClickException(
                    f"the loss is {found} at step {step}; what {checkpoint.path} keeps is older: "
                    "run again, with a lower rate in the recipe if it happens again"
                )
        if (step + 1) % recipe.compare_every == 0:
            log(work, stage="unet", step=step, **_caption_gap(average, data, scheduler))
        if checkpoint.keep(local) and setup.snapshot:
            setup.snapshot(average)
    save(done, average.state_dict())


def _part(this: Round, local: int, seconds: float, minutes: float | None) -> float:
    """How much of a round is done, by steps or by time; 1 is all of it."""
    if this.steps is not None:
        return local / this.steps
    if minutes is None:
        raise ValueError("this round has no number of steps: expected minutes, got none")
    return seconds / (60 * minutes)


@torch.inference_mode()
def _caption_gap(model: Denoiser, data: TrainingSet, scheduler: DDIMScheduler) -> dict[str, float]:
    """Loss with the caption beside loss without at t in 300…900: does the text matter yet?"""
    rng = np.random.default_rng(7)
    latents = next(iter(data.latents.values()))
    device = latents.device
    index = rng.integers(0, len(data.said), 64)
    t = torch.from_numpy(rng.integers(300, 900, 64)).to(device)
    z = latents[torch.from_numpy(index).to(device)]
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(7)).to(device)
    noisy, target = noised(z, t, noise, scheduler)
    captions = [describe(data.said[i], rng) for i in index]
    losses = {}
    for name, texts in (("told", captions), ("untold", [""] * 64)):
        ids = torch.from_numpy(model.vocabulary(texts)).to(device)
        losses[name] = F.mse_loss(model(noisy, t, ids), target).item()
    return losses


def save_pipeline(folder: Path, vae: AutoencoderTiny, model: Denoiser) -> None:
    """Write the model in diffusers' layout, weights in float16."""
    vae, model = copy.deepcopy(vae).cpu().half(), copy.deepcopy(model).cpu().half()
    vae.register_to_config(_name_or_path="")  # a folder of this machine
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=DDIMScheduler(**models.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


def save_snapshot(path: Path, work: Path, vae: AutoencoderTiny, model: Denoiser) -> None:
    """Write the pipeline and the run's log as one tar file, all of it or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        save_pipeline(Path(folder) / "storybook", vae, model)
        shutil.copy(work / "log.jsonl", folder)

        def pack(file: BinaryIO) -> None:
            with tarfile.open(fileobj=file, mode="w") as packed:
                packed.add(folder, arcname=".")

        write_atomically(path, pack)


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
    "--out",
    "output",
    type=click.Path(path_type=Path),
    default=Path("work/scenes/storybook"),
    show_default=True,
    help="Where the diffusers pipeline goes.",
)
@click.option(
    "--recipe",
    "chosen",
    type=click.Choice([*RECIPES]),
    default="shipped",
    show_default=True,
    help="The shipped model's, or one for a large GPU.",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A pipeline of this model to go on from, its autoencoder kept; else from nothing.",
)
@click.option("--quick", is_flag=True, help="A few steps of everything, to see that it runs.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="What the UNet's training takes where the recipe sets no number of steps.",
)
@click.option("--eager", is_flag=True, help="On a GPU: without CUDA graphs, slower.")
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="At every checkpoint, write the pipeline so far and the log here, as a tar file.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that render and caption.  [default: none on a CPU, one a core with a GPU]",
)
@click.option("--threads", default=2, show_default=True)
def main(
    work: Path,
    output: Path,
    chosen: str,
    start: Path | None,
    quick: bool,
    device: str,
    minutes: float,
    eager: bool,
    snapshot: Path | None,
    workers: int | None,
    threads: int,
) -> None:
    """Train the embedded model and save it as a diffusers pipeline."""
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU; "
            "leave it out to train on the CPU"
        )
    recipe = QUICK if quick else RECIPES[chosen]
    on_gpu = device == "cuda"
    if workers is None:
        workers = (os.cpu_count() or 1) if on_gpu else 0
    claim(work, recipe)
    models.write_tokenizer(work / "tokenizer")
    log(work, stage="recipe", **asdict(recipe))
    rendering = Rendering(work, recipe, workers)  # forks: before the GPU is touched
    between = 0.75 if on_gpu else 3
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.enable_cudnn_sdp(False)  # plans anew for every shape
    if start and not (work / "vae").exists():
        AutoencoderTiny.from_pretrained(start / "vae").float().save_pretrained(work / "vae")
    vae = train_vae(work, recipe, rendering, device, between)
    data = encode_scenes(work, recipe, vae, rendering)
    del rendering
    keep = partial(save_snapshot, snapshot, work, vae) if snapshot else None
    setup = Setup(device, workers, eager, minutes, between, keep, start)
    model = train_unet(work, recipe, data, setup)
    save_pipeline(output, vae, model)
    if keep:
        keep(model)
    click.echo(f"saved {output}")


if __name__ == "__main__":
    main()
