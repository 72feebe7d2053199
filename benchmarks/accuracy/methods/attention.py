"""The cross-attention's argmax: what the class maps say without features."""

from __future__ import annotations

from .... import kernels
from ....kernels import Array
from ....runtime.labels import guide
from .base import Task


def attention(task: Task) -> Array:
    """Labels (H, W), positions in the prompt's classes: argmax of the resized class maps, which
    may follow the picture's edges."""
    look, setting = task.look, task.setting
    maps = look.class_maps(
        setting.timestep,
        task.names,
        setting.pooling,
        setting.attention_strides,
        setting.mode,
    )
    if not setting.refine:
        return kernels.assign([maps], look.size).labels
    grid = kernels.edge_grid([maps], look.size)
    follow = guide(look.network.device, look.image, grid)
    return kernels.assign_along_edges(kernels.resize(maps, grid), follow).labels
