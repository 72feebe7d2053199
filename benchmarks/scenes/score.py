"""The bars of the scenes world: is the embedded model's every claim true on held-out scenes?

Protocol: 256² scenes with the zoomed views, seeds 0…N−1 (never trained on), mIoU over one
confusion matrix of all scenes at full resolution and all 14 classes. "all" puts every name in
the prompt, "dynamic" only the names visible. Unsupervised: k = number of visible classes, or
found from the eigengap; Hungarian matching per image, a segment left without a class is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ... import kernels
from ...kernels import Method
from ...runtime.segmenter import Options, Segmentation, Segmenter
from ..metrics import confusion, iou, match, roc_area
from .renderer import CLASSES, Scene, render

ABOVE_ATTENTION = "MaskDiffusion above attention alone, dynamic"
ABOVE_KMEANS = "unsupervised, spectral above kmeans"

BARS = {
    "area under ROC": (0.88, 0.94),
    "MaskDiffusion, dynamic": (42.0, 62.0),
    "MaskDiffusion, all names": (22.0, 42.0),
    ABOVE_ATTENTION: (0.0, 5.0),
    "unsupervised, spectral": (45.0, 60.0),
    ABOVE_KMEANS: (None, 0.0),
}
"""What a first version must reach on 200 scenes, and what the model should on 500."""

UNSUPERVISED: tuple[tuple[str, Literal["auto"] | None, Method], ...] = (
    ("unsupervised, spectral", None, "spectral"),
    ("unsupervised, kmeans", None, "kmeans"),
    ("unsupervised, k found", "auto", "spectral"),
)
"""Name, how many segments (None: as many as classes are visible), and how they are found."""


@dataclass
class Scores:
    """Confusion matrices by method, the class maps' areas under the ROC curve, and how many more
    segments were found than classes are visible, by scene."""

    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    areas: dict[str, list[float]] = field(default_factory=dict)
    surplus: list[int] = field(default_factory=list)

    def add(self, method: str, truth: NDArray[np.uint8], labels: NDArray[np.integer]) -> None:
        """Count one label map in `CLASSES` order; -1 is an error whatever the truth."""
        size = len(CLASSES)
        padded = np.where(labels < 0, size, labels)
        counts = confusion(truth, padded, size + 1)
        self.counts[method] = self.counts.get(method, 0) + counts

    def figures(self) -> dict[str, float]:
        """Mean area, mIoU of each method in per cent, two differences in points, the mean absolute
        error of k."""
        areas = [np.nanmean(values) for values in self.areas.values() if values]
        table = {"area under ROC": float(np.mean(areas))}
        for method, counts in self.counts.items():
            table[method] = float(np.nanmean(iou(counts)[: len(CLASSES)]))
        table[ABOVE_ATTENTION] = table["MaskDiffusion, dynamic"] - table["attention alone, dynamic"]
        table[ABOVE_KMEANS] = table["unsupervised, spectral"] - table["unsupervised, kmeans"]
        table["error of the k found"] = float(np.abs(self.surplus).mean())
        return table


def attention_labels(result: Segmentation) -> NDArray[np.integer]:
    """The argmax of the class maps alone, (H, W): MaskDiffusion without features."""
    size = (result.labels.shape[0], result.labels.shape[1])
    labels: NDArray[np.integer] = kernels.resize(result.weights, size).argmax(axis=0)
    return labels


def _score_scene(segmenter: Segmenter, scene: Scene, options: Options, scores: Scores) -> None:
    index = np.array([CLASSES.index(name) for name in scene.visible])
    dynamic = segmenter(scene.image, scene.visible, options=options)
    scores.add("attention alone, dynamic", scene.mask, index[attention_labels(dynamic)])
    scores.add("MaskDiffusion, dynamic", scene.mask, index[dynamic.labels])
    maps = kernels.resize(dynamic.weights, (256, 256))
    for name, class_map in zip(scene.visible, maps, strict=True):
        area = roc_area(class_map, scene.mask == CLASSES.index(name))
        if not np.isnan(area):
            scores.areas.setdefault(name, []).append(area)
    every = segmenter(scene.image, CLASSES, options=options)
    scores.add("attention alone, all names", scene.mask, attention_labels(every))
    scores.add("MaskDiffusion, all names", scene.mask, every.labels)
    visible = len(scene.visible)
    for name, segments, method in UNSUPERVISED:
        found = segmenter(
            scene.image,
            segments=segments or visible,
            options=Options(timestep=options.timestep, method=method),
        )
        scores.add(name, scene.mask, match(scene.mask, found.labels, len(CLASSES)))
        if segments == "auto":
            scores.surplus.append(len(found.classes) - visible)


def score(
    engine: Path | None = None, scenes: int = 500, options: Options | None = None, first: int = 0
) -> Scores:
    """Score a bundle on held-out scenes `first` … `first + scenes - 1`."""
    segmenter, scores = Segmenter(engine), Scores()
    for seed in track(range(first, first + scenes), "scoring", console=Console(stderr=True)):
        scene = render(seed)
        if scene.visible:
            _score_scene(segmenter, scene, options or Options(), scores)
    return scores


def beside(value: float, bar: float | None) -> str:
    """A bar, and whether a figure reaches it."""
    if bar is None:
        return ""
    return f"{bar:g}, {'reached' if value >= bar else 'not reached'}"


@click.command()
@click.option(
    "--engine", type=click.Path(path_type=Path), help="Bundle; the embedded one if not given."
)
@click.option("--scenes", default=500, show_default=True)
@click.option("--first", default=0, show_default=True, help="First seed.")
@click.option("--pooling", type=click.Choice(["exp", "softmax", "logit"]))
@click.option("--mode", type=click.Choice(["paper", "released"]))
@click.option("--timestep", type=int)
@click.option("--presence", type=click.FloatRange(0, 1, max_open=True))
@click.option("--sharpness", type=click.FloatRange(0, min_open=True))
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Also write the figures here."
)
def main(
    engine: Path | None,
    scenes: int,
    first: int,
    pooling: str | None,
    mode: str | None,
    timestep: int | None,
    presence: float | None,
    sharpness: float | None,
    path: Path | None,
) -> None:
    """Print the embedded model's figures beside the bars they must reach."""
    options = Options(
        mode=mode,  # type: ignore[arg-type]
        pooling=pooling,  # type: ignore[arg-type]
        timestep=timestep,
        presence=presence,
        sharpness=sharpness,
    )
    scores = score(engine, scenes, options, first)
    figures = scores.figures()
    table = Table(title=f"{scenes} held-out scenes, 256², {len(CLASSES)} classes, mIoU in per cent")
    for column in ("", "figure", "first bar", "second bar"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in figures.items():
        bars = BARS.get(name, (None, None))
        table.add_row(name, f"{value:.3g}", *(beside(value, bar) for bar in bars))
    console = Console()
    console.print(table)
    per_class = {
        m: dict(zip(CLASSES, iou(c).round(1).tolist(), strict=False))
        for m, c in scores.counts.items()
    }
    areas = {name: round(float(np.nanmean(v)), 3) for name, v in scores.areas.items()}
    if path is not None:
        path.write_text(
            json.dumps({"figures": figures, "iou": per_class, "areas": areas}, indent=2)
        )
    console.print({"area": areas, "IoU, all names": per_class["MaskDiffusion, all names"]})
