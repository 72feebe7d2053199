"""The cross-attention's argmax: what the class maps say without features."""

from __future__ import annotations

from .... import kernels
from ....kernels import Array
from .base import Task


def attention(task: Task) -> Array:
    """Labels (H, W), positions in the prompt's classes: argmax of the resized class maps."""
    look, setting = task.look, task.setting
    maps = look.class_maps(
        setting.timestep,
        task.names,
        setting.pooling,
        setting.attention_strides,
        square=setting.mode == "released",
    )
    return kernels.assign([maps], look.size).labels
