"""Results whose labels are chosen."""

from __future__ import annotations

import numpy as np

from mdrt.kernels import Grid
from mdrt.runtime.segmentation import Segmentation
from mdrt.runtime.writers.base import Run

NAMES = ("sky", 'a "b" & <c>: ü', "sea/../x")


def result_of(labels, names=NAMES, source=None) -> Segmentation:
    labels = np.asarray(labels)
    image = np.random.default_rng(1).integers(0, 256, (*labels.shape, 3), np.uint8)
    confidence = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    scores = np.zeros((len(names), *labels.shape), np.float32)
    settings = {"head": "maskdiffusion"}
    grid = Grid(scores[:, :1, :1])
    return Segmentation(
        labels, tuple(names), confidence, scores, grid, {}, settings, image, source, "toy", "0" * 64
    )


def run_of(names=NAMES, background=None, **settings) -> Run:
    settings = {"head": "maskdiffusion", "max_size": None} | settings
    return Run(names, background, "toy", "0" * 64, settings)


def blobs(seed, size=(37, 53), classes=3, void=True):
    """Labels with regions, single pixels, holes and void."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (-(-size[0] // 5), -(-size[1] // 4)))
    labels = np.repeat(np.repeat(coarse, 5, 0), 4, 1)[: size[0], : size[1]]
    loose = random.random(size) < 0.05
    labels[loose] = random.integers(0, classes, loose.sum())
    labels = labels.astype(np.uint8)
    if void:
        labels[random.random(size) < 0.02] = 255
    return labels
