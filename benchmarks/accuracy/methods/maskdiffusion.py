"""MaskDiffusion: attention class maps, prototypes under them, the nearest prototype (Eq. 4–6)."""

from __future__ import annotations

from dataclasses import replace

from .... import kernels
from ....kernels import Array
from .base import Task


def maskdiffusion(task: Task) -> Array:
    """Labels (H, W), positions in the prompt's classes.

    Mode "released" takes features from the empty prompt and attention from the picture as one
    square without noise, as the official code does.
    """
    look, setting, names = task.look, task.setting, task.names
    released = setting.mode == "released"
    features = look.features(setting.timestep, None if released else names, setting.feature_strides)
    maps = look.class_maps(
        setting.timestep, names, setting.pooling, setting.attention_strides, setting.mode
    )
    weights = replace(maps, values=maps.values**setting.sharpness)
    norms = look.norms(features) if released else None
    averages = kernels.prototypes(features, weights, look.size, setting.mode, norms)
    scores = kernels.score_maps(features, averages, setting.mode)
    absent = None
    if setting.presence:
        won = look.won_shares(setting.timestep, names, setting.attention_strides, setting.mode)
        absent = kernels.absent(won, setting.presence)
    return task.labels(features, scores, maps, absent)
