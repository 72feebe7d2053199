"""The scenes world: pictures and masks made from seeds as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ....runtime.errors import DatasetError
from ...accuracy.datasets.base import Sample
from .renderer import CLASSES, render

FIRST: Final = {"val": 0, "train": 1_000_000}
"""Seeds below a million are held out; those from there on were trained on."""

COUNT: Final = {"val": 500, "train": 200}


class Scenes:
    """Held-out scenes, or training ones; see `base.Dataset`."""

    name = "scenes"

    def __init__(self, split: str = "val") -> None:
        if split not in FIRST:
            raise DatasetError(
                f"scenes have no split {split!r}; expected one of {', '.join(FIRST)}"
            )
        seeds = range(FIRST[split], FIRST[split] + COUNT[split])
        self.classes: Sequence[tuple[str, ...]] = [(name,) for name in CLASSES]
        self.ids = [f"scene-{seed:07d}" for seed in seeds]
        self.missing: Sequence[str] = ()
        self._seeds = seeds

    def __len__(self) -> int:
        return len(self._seeds)

    def load(self, index: int) -> Sample:
        """Render one scene."""
        scene = render(self._seeds[index])
        return Sample(self.ids[index], scene.image, scene.mask)
