"""The bars of the scenes world: is the embedded model's every claim true on held-out scenes?

Protocol: 256² scenes with the zoomed views, seeds 0…N−1 (never trained on), mIoU over one
confusion matrix of all scenes at full resolution and all 14 classes. "all names" puts every name
in the prompt, "dynamic" only the names visible. Unsupervised: k = number of visible classes, or
found; Hungarian matching per image, a segment left without a class is an error. Rows are as the
bundle recommends; "plain" ones without its boundaries along edges, the class maps' share in the
scores and the power of the affinity, and unnamed ones at the paper's timestep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ....cli.options import engine_option, set_option
from ....runtime.segmenter import Segmenter
from ...accuracy.evaluate import label
from ...accuracy.protocols import IGNORE, PROTOCOLS, figures
from ...accuracy.settings import Setting, find_head, parse_for
from ...metrics import Counts, Labels, roc_area
from .renderer import CLASSES, Scene, render

ABOVE_PLAIN = "MaskDiffusion above attention alone, plain, dynamic"
ABOVE_ATTENTION = "MaskDiffusion above attention alone, dynamic"
ABOVE_KMEANS = "unsupervised, spectral above k-means"
SCORED = ("maskdiffusion", "attention", "spectral", "kmeans")
PROMPTS = ("dynamic", "all names")

BARS = {
    "area under ROC": (0.88, 0.94),
    "MaskDiffusion, dynamic": (42.0, 62.0),
    "MaskDiffusion, all names": (22.0, 42.0),
    ABOVE_PLAIN: (0.0, 5.0),
    ABOVE_ATTENTION: (0.0, 5.0),
    "unsupervised, spectral": (45.0, 60.0),
    ABOVE_KMEANS: (None, 0.0),
}
"""What a first version must reach on 200 scenes, and what the model should on 500."""

DIFFERENCES = (
    (ABOVE_PLAIN, "MaskDiffusion, plain, dynamic", "attention alone, plain, dynamic"),
    (ABOVE_ATTENTION, "MaskDiffusion, dynamic", "attention alone, dynamic"),
    (ABOVE_KMEANS, "unsupervised, spectral", "unsupervised, k-means"),
)
"""Name of a difference, and the rows it lies between."""

PROTOCOL = PROTOCOLS["hungarian-image-positive"]
"""Of unnamed segments; what a segment too many covers is an error of the class under it alone."""


def rows(segmenter: Segmenter, given: Mapping[str, str]) -> dict[str, Setting]:
    """Every row by its name: what the bundle recommends, and plain.

    Args:
        segmenter: a bundle.
        given: options as `--set` takes them, of every head that has them.
    """

    values = parse_for([find_head(name) for name in SCORED], given)

    def of(head: str, plain: Mapping[str, Any], **own: Any) -> Setting:
        return Setting(head, segmenter.settle(head, **(values[head] | {**plain})), **own)

    paper = {"timestep": 0, "refine": "none"}
    found = {}
    plainly: dict[str, Any] = {"attention": 0.0, "refine": "none"}
    for prompt in PROMPTS:
        for row, head, plain in (
            ("attention alone, plain", "attention", {"refine": "none"}),
            ("attention alone", "attention", {}),
            ("MaskDiffusion, plain", "maskdiffusion", plainly),
            ("MaskDiffusion", "maskdiffusion", {}),
        ):
            found[f"{row}, {prompt}"] = of(
                head, plain, prompt_classes="present" if prompt == "dynamic" else "all"
            )
    return found | {
        "unsupervised, spectral": of("spectral", {}),
        "unsupervised, k-means": of("kmeans", {}),
        "unsupervised, k found": of("spectral", {}, segments="auto"),
        "unsupervised, spectral, plain": of(
            "spectral", paper | {"affinity": "grid", "affinity_power": 1.0}
        ),
        "unsupervised, k-means, plain": of("kmeans", paper),
    }


@dataclass
class Scores:
    """Counts by row, the class maps' areas under the ROC curve, and how many more segments were
    found than classes are visible, by scene."""

    counts: dict[str, Counts] = field(default_factory=dict)
    areas: dict[str, list[float]] = field(default_factory=dict)
    surplus: list[int] = field(default_factory=list)

    def add(self, row: str, kind: str, truth: NDArray[np.uint8], labels: Labels) -> None:
        """Count one label map in `CLASSES` order, or of segments."""
        protocol = PROTOCOLS["miou"] if kind == "named" else PROTOCOL
        counts = protocol.count(truth, labels, len(CLASSES))
        self.counts[row] = self.counts.get(row, 0) + counts

    def figures(self) -> dict[str, float]:
        """Mean area, mIoU of each row in per cent, differences in points, the mean absolute
        error of k."""
        areas = [np.nanmean(values) for values in self.areas.values() if values]
        table = {"area under ROC": float(np.mean(areas))}
        table |= {row: figures(counts).miou for row, counts in self.counts.items()}
        for name, ours, theirs in DIFFERENCES:
            table[name] = table[ours] - table[theirs]
        table["error of the k found"] = float(np.abs(self.surplus).mean())
        return table


def _score_scene(
    segmenter: Segmenter, scene: Scene, settings: Mapping[str, Setting], scores: Scores
) -> None:
    look = segmenter.look(scene.image)
    visible = [CLASSES.index(name) for name in scene.visible]
    seen = np.where(np.isin(scene.mask, visible), scene.mask, IGNORE).astype(np.uint8)
    for name, setting in settings.items():
        if setting.segments == "auto":
            segments = look.segments("auto", setting.head, **vars(setting.options))
            scores.surplus.append(len(segments.classes) - len(visible))
            labels: Labels = segments.labels
        else:
            labels = label(look, setting, CLASSES, seen)
        scores.add(name, setting.kind, scene.mask, labels)
    alone = settings["attention alone, plain, dynamic"]
    found = look.segment(scene.visible, alone.head, scores=True, **vars(alone.options))
    assert found.scores is not None
    for name, class_map in zip(scene.visible, found.scores, strict=True):
        area = roc_area(class_map, scene.mask == CLASSES.index(name))
        if not np.isnan(area):
            scores.areas.setdefault(name, []).append(area)


def score(
    engine: Path | None = None,
    scenes: int = 500,
    given: Mapping[str, str] | None = None,
    first: int = 0,
) -> Scores:
    """Score a bundle on held-out scenes `first` … `first + scenes - 1`."""
    segmenter, scores = Segmenter(engine), Scores()
    settings = rows(segmenter, given or {})
    for seed in track(range(first, first + scenes), "scoring", console=Console(stderr=True)):
        scene = render(seed)
        if scene.visible:
            _score_scene(segmenter, scene, settings, scores)
    return scores


def beside(value: float, bar: float | None) -> str:
    """A bar, and whether a figure reaches it."""
    if bar is None:
        return ""
    return f"{bar:g}, {'reached' if value >= bar else 'not reached'}"


@click.command()
@engine_option
@click.option("--scenes", default=500, show_default=True)
@click.option("--first", default=0, show_default=True, help="First seed.")
@set_option
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Also write the figures here."
)
def main(
    engine: Path | None, scenes: int, first: int, settings: Mapping[str, str], path: Path | None
) -> None:
    """Print the embedded model's figures beside the bars they must reach."""
    scores = score(engine, scenes, settings, first)
    values = scores.figures()
    table = Table(title=f"{scenes} held-out scenes, 256², {len(CLASSES)} classes, mIoU in per cent")
    for column in ("", "figure", "first bar", "second bar"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in values.items():
        bars = BARS.get(name, (None, None))
        table.add_row(name, f"{value:.3g}", *(beside(value, bar) for bar in bars))
    console = Console()
    console.print(table)
    per_class = {
        row: dict(zip(CLASSES, figures(counts).iou.round(1).tolist(), strict=True))
        for row, counts in scores.counts.items()
    }
    areas = {name: round(float(np.nanmean(v)), 3) for name, v in scores.areas.items()}
    if path is not None:
        path.write_text(json.dumps({"figures": values, "iou": per_class, "areas": areas}, indent=2))
    console.print({"area": areas, "IoU, all names": per_class["MaskDiffusion, all names"]})
