"""The methods that are compared, each a small module over the same looks: one file, one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .attention import attention
from .base import Kind, Method, Setting, Task
from .clustering import kmeans, unsupervised
from .diffseg import TIMESTEP as DIFFSEG_TIMESTEP
from .diffseg import diffseg
from .maskdiffusion import maskdiffusion
from .prototypes_gt import GroundTruth, prototypes_gt

METHODS: Final[Mapping[str, Method]] = {
    "maskdiffusion": Method(maskdiffusion, "named", "Eq. 4 to 6, modes paper and released"),
    "attention": Method(attention, "named", "the argmax of the class maps alone"),
    "prototypes-gt": Method(
        prototypes_gt, "named", "prototypes from ground truth of a training split (Table 7)", True
    ),
    "unsupervised": Method(unsupervised, "segments", "spectral clustering of the affinity (Eq. 7)"),
    "kmeans": Method(kmeans, "segments", "k-means on f, the paper's baseline"),
    "diffseg": Method(
        diffseg,
        "segments",
        "iterative merging of self-attention maps (DiffSeg)",
        self_attention=True,
        timestep=DIFFSEG_TIMESTEP,
    ),
}
"""`--method` → what it is."""

__all__ = ["METHODS", "GroundTruth", "Kind", "Method", "Setting", "Task"]
