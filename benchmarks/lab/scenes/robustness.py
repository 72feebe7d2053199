"""What the embedded model bears: other words, orders, absent names, other sizes and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ....cli.options import engine_option
from ....runtime.segmenter import Segmenter
from ...accuracy.protocols import PROTOCOLS, figures
from ...metrics import Counts, Labels
from .captions import synonym
from .renderer import CLASSES, MINIMUM_VISIBLE, WORLD, StyleName, render

Prompt = Callable[[Sequence[str], np.random.Generator], list[str]]
Cut = tuple[slice, slice]
PROTOCOL = PROTOCOLS["miou"]
WHOLE: Cut = (slice(None), slice(None))


def _as_they_are(classes: Sequence[str], rng: np.random.Generator) -> list[str]:
    return list(classes)


def _shuffled(classes: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [classes[i] for i in rng.permutation(len(classes))]


def _with_absent(classes: Sequence[str], rng: np.random.Generator) -> list[str]:
    absent = [name for name in CLASSES if name not in classes]
    return [*classes, *(absent[i] for i in rng.permutation(len(absent))[:3])]


@dataclass(frozen=True)
class Condition:
    """One row of the table.

    Attributes:
        label: what is changed.
        prompt: the classes to name, from those that a column of the table asks for.
        synonyms: call each class by another word.
        side: pixels the square scene is rendered with.
        cut: the part of it that is segmented.
        style: of the picture.
    """

    label: str
    prompt: Prompt = _as_they_are
    synonyms: bool = False
    side: int = WORLD
    cut: Cut = WHOLE
    style: StyleName = "plain"


CONDITIONS = (
    Condition("256×256, classes in their order"),
    Condition("… in random order", _shuffled),
    Condition("… called by synonyms", synonyms=True),
    Condition("… and three absent ones", _with_absent),
    Condition("… in a style never seen", style="unseen"),
    Condition("512×512", side=512),
    Condition("768×768", side=768),
    Condition("1024×1024", side=1024),
    Condition("512×256, landscape", side=512, cut=(slice(128, 384), slice(None))),
    Condition("256×512, portrait", side=512, cut=(slice(None), slice(128, 384))),
    Condition("1024×640, landscape", side=1024, cut=(slice(192, 832), slice(None))),
)

COLUMNS = ("visible names", "all 14 names")


def visible(mask: NDArray[np.uint8], side: int) -> list[str]:
    """The classes of a mask that cover enough to be named, as `render` counts at 256²."""
    enough = MINIMUM_VISIBLE * (side / WORLD) ** 2
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    return [name for name, count in zip(CLASSES, counts, strict=True) if count >= enough]


def _labels(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    condition: Condition,
    asked: Sequence[str],
    rng: np.random.Generator,
) -> Labels:
    """(H, W), positions in `CLASSES`."""
    chosen = condition.prompt(asked, rng)
    words = [synonym(name, rng) for name in chosen] if condition.synonyms else chosen
    index = np.array([CLASSES.index(name) for name in chosen])
    labels: Labels = index[segmenter(image, words).labels]
    return labels


def robustness(
    segmenter: Segmenter, scenes: int, conditions: Sequence[Condition] = CONDITIONS
) -> dict[str, dict[str, float]]:
    """mIoU in per cent by condition and column, over one confusion matrix of held-out scenes."""
    table = {}
    for condition in conditions:
        counts: dict[str, list[Counts]] = {column: [] for column in COLUMNS}
        for seed in track(range(scenes), condition.label, console=Console(stderr=True)):
            scene = render(seed, size=condition.side, style=condition.style)
            rng = np.random.default_rng([seed, 6])
            image, mask = scene.image[condition.cut], scene.mask[condition.cut]
            for column, asked in zip(
                COLUMNS, (visible(mask, condition.side), list(CLASSES)), strict=True
            ):
                if asked:
                    found = _labels(segmenter, np.ascontiguousarray(image), condition, asked, rng)
                    counts[column].append(PROTOCOL.count(mask, found, len(CLASSES)))
        table[condition.label] = {
            column: figures(PROTOCOL.total(parts, len(CLASSES))).miou
            for column, parts in counts.items()
        }
    return table


@click.command()
@engine_option
@click.option("--scenes", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--json", "to_json", is_flag=True, help="Print JSON instead of a table.")
def main(engine: Path | None, scenes: int, to_json: bool) -> None:
    """MaskDiffusion with other words, orders, sizes and shapes, as the bundle recommends."""
    found = robustness(Segmenter(engine), scenes)
    if to_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table("", *COLUMNS, title=f"{scenes} held-out scenes, mIoU in per cent")
    for label, row in found.items():
        table.add_row(label, *(f"{row[column]:.1f}" for column in COLUMNS))
    Console().print(table)
