"""One optimisation step of the UNet and the text embeddings, on a CPU or as one CUDA graph.

A step of this model is some two thousand small kernels: launched one by one they cost a GPU
several times what they compute. As a graph they are launched once, in the order recorded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

import click
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from .batches import StepBatch

WARM = 3
"""Calls before a graph is recorded: libraries choose their kernels, optimisers make their state."""


class Graphed:
    """A function of CUDA tensors, replayed from its fourth call on.

    The first calls run as they are, on a stream of their own as recording asks for. Shapes must
    stay the same; the result is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self.function, self.calls = function, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[torch.Tensor] = []
        self.output = torch.empty(0)
        self.stream = torch.cuda.Stream()

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        if self.calls < WARM:
            self.calls += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                found = self.function(*given)
            torch.cuda.current_stream().wait_stream(self.stream)
            return found
        graph = self.graph or self._record(given)
        for held, new in zip(self.inputs, given, strict=True):
            held.copy_(new)
        graph.replay()
        return self.output

    def _record(self, given: tuple[torch.Tensor, ...]) -> torch.cuda.CUDAGraph:
        self.inputs = [tensor.clone() for tensor in given]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.output = self.function(*self.inputs)
        except RuntimeError as error:
            traceback.print_exc()
            raise click.ClickException(
                f"the step cannot be recorded as a CUDA graph ({error}); "
                "run again with --eager, which goes on from the last checkpoint"
            ) from error
        self.graph = graph
        return graph


def half_products(device: str) -> torch.autocast:
    """Multiply in bfloat16 where the processor has instructions for it."""
    able = device == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    # Every weight is used once a step: a cache of its casts gains nothing, and a graph must not
    # find one from before it was recorded.
    return torch.autocast(device, dtype=torch.bfloat16, enabled=able, cache_enabled=False)


def noised(
    z: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, scheduler: DDIMScheduler
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network sees of latents at timesteps, and the v it should say."""
    return scheduler.add_noise(z, noise, t), scheduler.get_velocity(z, noise, t)


class Stepper:
    """Takes steps: noise, forward, backward, clipped gradients, AdamW."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        scheduler: DDIMScheduler,
        latents: Mapping[int, torch.Tensor],
        device: str,
        eager: bool,
    ) -> None:
        """`latents` by size in pixels, on the device; `eager`: on a GPU, record no graphs."""
        self.model, self.optimiser, self.scheduler = model, optimiser, scheduler
        self.latents, self.device = latents, device
        self.parameters = list(model.parameters())
        if device == "cuda":  # a recorded step reads its rate where this one is written
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(0.0, device=device)
        self.takes: dict[int, Callable[..., torch.Tensor]] = {
            size: self._plain(size) if eager or device != "cuda" else Graphed(self._plain(size))
            for size in latents
        }

    def __call__(self, size: int, step: int, batch: StepBatch, rate: float) -> torch.Tensor:
        """Learn from a batch of pictures of this size; returns the loss, still on the device.

        The noise is the step's: on one kind of device always the same.
        """
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        shape = (len(batch.index), *self.latents[size].shape[1:])
        source = torch.Generator(self.device).manual_seed(step)
        noise = torch.randn(shape, generator=source, device=self.device)
        return self.takes[size](*batch, noise)

    def _plain(self, size: int) -> Callable[..., torch.Tensor]:
        latents = self.latents[size]

        def take(
            index: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, noise: torch.Tensor
        ) -> torch.Tensor:
            noisy, target = noised(latents[index], t, noise, self.scheduler)
            with half_products(self.device):
                prediction = self.model(noisy, t, ids)
            loss = F.mse_loss(prediction.float(), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            return loss.detach()

        return take
