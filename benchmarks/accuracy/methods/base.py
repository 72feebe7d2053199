"""What a method is given, and what it gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ....kernels import Array, Grid, Mode, Pooling
from ....runtime.labels import label_pixels
from ....runtime.look.prompts import ClassName
from ....runtime.segmenter import Options
from ..looks import Look

Kind: TypeAlias = Literal["named", "segments"]
"""Whether a method gives classes or segments without names."""


@dataclass(frozen=True)
class Setting:
    """One method and every choice that changes what it gives.

    Attributes:
        method: a key of `METHODS`.
        timestep: index into ᾱ.
        pooling: how logits become class maps; of methods that have them.
        mode: "paper" or "released".
        feature_strides, attention_strides: of the bundle's; None takes all.
        dynamic: only the classes present are in the prompt.
        segments: of unnamed methods: "present" (as many as classes are present, as the paper
            takes from the ground truth), "auto" (found in the features), or a number.
        train: pictures of the training split, of fitted methods.
        presence: share of the attention's cells that a class must win; 0 takes every class.
        sharpness: power of the class maps that prototypes are averaged with, or of the affinity.
        attention: share of the class maps in the scores.
        refine: whether boundaries follow the picture's edges.
        kl_threshold: of DiffSeg's merging; 1.1 for COCO-Stuff, 0.9 for Cityscapes as published.
    """

    method: str
    timestep: int
    pooling: Pooling = "exp"
    mode: Mode = "paper"
    feature_strides: tuple[int, ...] | None = None
    attention_strides: tuple[int, ...] | None = None
    dynamic: bool = False
    segments: int | Literal["present", "auto"] = "present"
    train: int = 0
    kl_threshold: float = 1.1
    presence: float = 0.0
    sharpness: float = 1.0
    attention: float = 0.0
    refine: bool = False

    @classmethod
    def of(cls, method: str, settled: Options) -> Setting:
        """What a method uses of options that `Segmenter.settle` completed."""
        assert settled.timestep is not None
        assert settled.pooling is not None
        assert settled.mode is not None
        assert settled.presence is not None
        assert settled.sharpness is not None
        assert settled.attention is not None
        assert settled.refine is not None
        mapped = method == "maskdiffusion"
        return cls(
            method,
            settled.timestep,
            settled.pooling,
            settled.mode,
            presence=settled.presence if mapped else 0.0,
            sharpness=settled.sharpness if mapped or method == "unsupervised" else 1.0,
            attention=settled.attention if mapped else 0.0,
            refine=settled.refine and method != "diffseg",
        )

    @property
    def key(self) -> str:
        """The setting as text, the same for equal settings; without defaults, so that a choice
        that is added later leaves earlier results as they are."""
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class Task:
    """One picture for one setting.

    Attributes:
        look: what the networks show of it.
        setting: how.
        classes: every class of the data set.
        truth: (H, W) uint8, only to tell what is present, and how many segments.
        prototypes: (classes, d_l) a level, of methods that were fitted.
    """

    look: Look
    setting: Setting
    classes: Sequence[ClassName]
    truth: NDArray[np.uint8]
    prototypes: Sequence[Array] | None = None

    @property
    def present(self) -> list[int]:
        """The classes in the truth; without any, all of them."""
        found = [int(c) for c in np.unique(self.truth) if c < len(self.classes)]
        return found or list(range(len(self.classes)))

    @property
    def prompted(self) -> list[int]:
        """The classes in the prompt."""
        return self.present if self.setting.dynamic else list(range(len(self.classes)))

    @property
    def names(self) -> list[ClassName]:
        """The names in the prompt."""
        return [self.classes[index] for index in self.prompted]

    def labels(
        self,
        features: Sequence[Grid],
        scores: Sequence[Grid],
        maps: Grid | None = None,
        absent: Array | None = None,
    ) -> Array:
        """Every pixel's class, (H, W), as the setting has it; see `label_pixels`."""
        assigned, _ = label_pixels(
            self.look.network.device,
            self.look.image,
            features,
            scores,
            maps=maps,
            attention=self.setting.attention,
            refine=self.setting.refine,
            absent=absent,
        )
        return assigned.labels


@dataclass(frozen=True)
class Method:
    """One way to label a picture.

    Attributes:
        run: gives labels (H, W) on the task's device: positions in `Task.prompted`, or segments.
        kind: which of the two.
        help: what it is, in a line.
        fitted: whether it needs prototypes from a training split.
        self_attention: whether it needs a bundle that returns self-attention.
        timestep: the published one, where it has one of its own.
    """

    run: Callable[[Task], Any]
    kind: Kind
    help: str
    fitted: bool = False
    self_attention: bool = False
    timestep: int | None = None
