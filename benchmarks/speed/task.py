"""What every contender is given, and what it gives back."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.look.prompts import read_classes, synonyms
from ..accuracy.datasets.registry import class_file

STAGES: Final = (
    "image", "text", "vae", "unet", "decode", "attention", "segments", "prototypes", "assign",
    "download", "output",
)  # fmt: skip
"""Stages in the order in which they run; "decode" is the official code's alone."""

NETWORK: Final = ("text", "vae", "unet", "decode")
"""Stages that run a network."""

CITYSCAPES: Final = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 classes of Cityscapes."""

_LISTS: Final = ("cocostuff171", "ade150")


@dataclass(frozen=True)
class Task:
    """One picture size and class list, for every contender the same.

    `bundle` is what mdrt and the runtimes read, `pipeline` what PyTorch reads, None where no
    PyTorch contender runs, and `vae` the directory of its VAE, None for the pipeline's own;
    `cache` is where other runtimes keep what they convert. `threads` None leaves every runtime its
    own choice.
    """

    bundle: str
    pipeline: str | None
    size: int
    classes: tuple[str, ...]
    cache: str
    threads: int | None = None
    vae: str | None = None

    def image(self, index: int) -> NDArray[np.uint8]:
        """A picture of smooth colours, shapes and grain, another for each index."""
        random = np.random.default_rng(index)
        y, x = np.mgrid[0 : self.size, 0 : self.size] / self.size
        waves = random.uniform(1, 6, (3, 2)) @ np.stack([y.ravel(), x.ravel()])
        picture = 127 + 90 * np.sin(np.pi * waves + random.uniform(0, 6, (3, 1)))
        picture += random.normal(0, 6, picture.shape)
        pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8).T
        return np.ascontiguousarray(pixels.reshape(self.size, self.size, 3))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        return cls(**(values | {"classes": tuple(values["classes"])}))


def names(count: int) -> tuple[str, ...]:
    """`count` class names: Cityscapes' own, then COCO-Stuff's and ADE20K's, then pairs of them."""
    listed = (synonyms(c)[0] for name in _LISTS for c in read_classes(class_file(name)))
    single = tuple(dict.fromkeys((*CITYSCAPES, *listed)))
    pairs = (f"{first} {second}" for first, second in itertools.permutations(single, 2))
    return tuple(itertools.islice(itertools.chain(single, pairs), count))
