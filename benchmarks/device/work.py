"""Operations and bytes of every stage at Stable Diffusion 1.x's shapes, and the floor they set.

Networks are counted by running the published architecture on PyTorch's meta device, where shapes
are computed and values are not: every convolution, linear layer and attention product is one
operation, with its inputs, weights and outputs moved once in fp16; everything else counts as fused
into them. What comes after the networks is counted from the formulas of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPAttention

from ..kernels_bench import CASES
from ..random_pipeline import SHAPES, VAE

Arithmetic: TypeAlias = Literal["fp16", "fp32", "fp64"]

SIDE: Final = 512
"""Pixels of a side of the picture."""
TOKENS: Final = 77
HALF, SINGLE, DOUBLE = 2, 4, 8
"""Bytes of a value."""


@dataclass(frozen=True)
class Operation:
    """One kernel of a stage."""

    arithmetic: Arithmetic
    flops: float
    """Two a multiply-add."""
    moved: float
    """Bytes read and written once, from and to the GPU's memory."""


@dataclass(frozen=True)
class Stage:
    """Operations that run one after another."""

    name: str
    operations: tuple[Operation, ...]

    @property
    def flops(self) -> float:
        return sum(operation.flops for operation in self.operations)

    @property
    def moved(self) -> float:
        return sum(operation.moved for operation in self.operations)


@dataclass(frozen=True)
class Gpu:
    """Published peaks: operations a second by arithmetic, bytes a second of memory."""

    name: str
    peaks: Mapping[Arithmetic, float]
    bandwidth: float

    def floor(self, stage: Stage) -> float:
        """Seconds below which the stage cannot come: each operation at its own limit."""
        return sum(
            max(
                operation.flops / self.peaks[operation.arithmetic], operation.moved / self.bandwidth
            )
            for operation in stage.operations
        )


GPUS: Final = (
    # NVIDIA A100 80GB SXM data sheet, 2021, and H100 SXM data sheet, 2023: dense tensor cores in
    # fp16, the ordinary units in fp32 and fp64
    Gpu("A100", {"fp16": 312e12, "fp32": 19.5e12, "fp64": 9.7e12}, 2.039e12),
    Gpu("H100", {"fp16": 989e12, "fp32": 67e12, "fp64": 34e12}, 3.35e12),
)


def stages() -> tuple[list[Stage], list[Stage]]:
    """The networks' stages, and those after the networks."""
    return _networks(), _after_the_networks()


class _Reached(Exception):
    """The last layer the graph holds has run."""


def _networks() -> list[Stage]:
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKL(**VAE)
        text = CLIPTextModel(CLIPTextConfig(**SHAPES["sd14"][1]))
        with _counted(vae) as encoding:
            vae.encode(torch.empty(1, 3, SIDE, SIDE))
        with _counted(text) as prompt:
            text(torch.zeros(1, TOKENS, dtype=torch.long))
    return [
        Stage("VAE encoder", tuple(encoding)),
        Stage("text encoder (once a class list)", tuple(prompt)),
        unet(),
    ]


def unet(whole: bool = False) -> Stage:
    """A pass of batch 1, to the last features the graph reads, or to the end."""
    config = SHAPES["sd14"][0]
    with torch.device("meta"), torch.no_grad():
        model = UNet2DConditionModel(**config)
        if not whole:  # the features of stride 16 enter the third up block's last resnet
            model.up_blocks[2].resnets[-1].register_forward_pre_hook(_stop)
        with _counted(model) as found, suppress(_Reached):
            latent = torch.empty(1, 4, SIDE // 8, SIDE // 8)
            hidden = torch.empty(1, TOKENS, config["cross_attention_dim"])
            model(latent, torch.zeros(1, dtype=torch.long), hidden)
    return Stage(
        "for comparison: the whole UNet" if whole else "UNet, up to the 32² features", tuple(found)
    )


def _stop(module: nn.Module, arguments: Any) -> None:
    raise _Reached


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[Operation]]:
    """Collects the operations of the model's layers as they run."""
    found: list[Operation] = []

    def layer(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        weight: torch.Tensor = module.weight
        values = arguments[0].numel() + weight.numel() + output.numel()
        flops = 2 * output.numel() * weight[0].numel()
        found.append(Operation("fp16", flops, HALF * values))

    def attention(
        module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Any
    ) -> None:
        queries = arguments[0] if arguments else options["hidden_states"]
        if queries.ndim == 4:  # the VAE's, over pixels
            queries = queries.flatten(2).transpose(1, 2)
        context = options.get("encoder_hidden_states")
        keys = queries.shape[1] if context is None else context.shape[1]
        n, width = queries.shape[1:]  # as wide inside, in all of these networks
        found.append(Operation("fp16", 4 * n * keys * width, HALF * 2 * (n + keys) * width))

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(layer))
        elif isinstance(module, Attention | CLIPAttention):
            handles.append(module.register_forward_hook(attention, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _after_the_networks() -> list[Stage]:
    """Mode "paper" with 19 classes of one token each, confidences included."""
    case = CASES["named"]
    classes, pixels = case.classes, SIDE * SIDE
    levels = [(channels, h * w) for channels, h, w in case.features]
    cells = sum(low for _, low in levels)
    grid = max(h * w for h, w in case.attention)
    side = max(h for h, _ in case.attention)

    # A logit on the output grid: 9 operations to interpolate, an exponential and 3 to add it.
    state = 2 * SINGLE * classes * grid
    pooling = [
        Operation(
            "fp32",
            13 * case.heads * classes * grid,
            HALF * case.heads * classes * h * w + 2 * state,
        )
        for h, w in case.attention
    ]
    pooling.append(Operation("fp32", 4 * classes * grid, 2 * state))

    # Ten products with a neighbour are five a cell; a level costs a pixel about 40 operations.
    norms = [
        Operation("fp64", 10 * channels * low, SINGLE * channels * low + 4 * DOUBLE * low)
        for channels, low in levels
    ]
    norms.append(Operation("fp64", 40 * pixels * len(levels), 4 * DOUBLE * cells + SINGLE * pixels))

    # Class maps are brought down to the level, along one axis and then along the other.
    averages = []
    for (channels, low), (_, h, w) in zip(levels, case.features, strict=True):
        down = 2 * classes * (side * side * w + side * h * w)
        averages.append(Operation("fp32", down, SINGLE * classes * (grid + low)))
        averages.append(_product(classes, low, channels))
    scores = [_product(classes, channels, low) for channels, low in levels]

    # A score at a pixel: 10 operations a level and a comparison; a label of one byte.
    labels = Operation(
        "fp32",
        (10 * len(levels) + 1) * classes * pixels,
        SINGLE * classes * cells + (1 + 2 * SINGLE) * pixels,
    )
    return [
        Stage("pooled attention", tuple(pooling)),
        Stage("pixel norms", tuple(norms)),
        Stage("prototypes", tuple(averages)),
        Stage("score maps", tuple(scores)),
        Stage("labels and confidences", (labels,)),
    ]


def _product(rows: int, inner: int, columns: int) -> Operation:
    """A matrix product in fp32."""
    values = rows * inner + inner * columns + rows * columns
    return Operation("fp32", 2 * rows * inner * columns, SINGLE * values)
