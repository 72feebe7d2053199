"""Operations and bytes of what comes after the networks, and the floor that published peaks set.

Counted from the kernels' formulas at Stable Diffusion 1.x's shapes; everything is moved once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ..kernels_bench import CASES

Arithmetic: TypeAlias = Literal["fp16", "fp32", "fp64"]

SIDE: Final = 512
"""Pixels of a side of the picture."""
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
class GpuPeaks:
    """A GPU's published peaks: operations a second by arithmetic, bytes a second of memory."""

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
    GpuPeaks("A100", {"fp16": 312e12, "fp32": 19.5e12, "fp64": 9.7e12}, 2.039e12),
    GpuPeaks("H100", {"fp16": 989e12, "fp32": 67e12, "fp64": 34e12}, 3.35e12),
)


def after_the_networks() -> list[Stage]:
    """Mode "paper" with 19 classes of one token each, confidences included."""
    case = CASES["named"]
    classes, pixels = case.classes, SIDE * SIDE
    levels = [(channels, h * w) for channels, h, w in case.features]
    cells = sum(low for _, low in levels)
    grid = max(h * w for h, w in case.attention)
    side = max(h for h, _ in case.attention)

    # A logit: an exponential and 3 to add it. Then a layer's cell takes 3 to be brought to the
    # class's maximum, and its part in a cell of the common grid 10; last comes the division.
    pooling = [
        Operation(
            "fp32",
            4 * case.heads * classes * h * w,
            (HALF * case.heads + 2 * SINGLE) * classes * h * w,
        )
        for h, w in case.attention
    ]
    held = classes * sum(h * w for h, w in case.attention)
    pooling.append(
        Operation(
            "fp32",
            3 * held + (10 * len(case.attention) + 2) * classes * grid,
            SINGLE * (4 * held + 3 * classes * grid),
        )
    )

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
