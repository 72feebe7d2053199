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
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .... import kernels
from ....runtime.bundle.contract import PAPER_TIMESTEP
from ....runtime.segmenter import Options, Segmenter
from ...accuracy.evaluate import label
from ...accuracy.looks import Look
from ...accuracy.methods import METHODS, Setting, Task
from ...metrics import confusion, iou, match, roc_area
from .renderer import CLASSES, Scene, render

ABOVE_PLAIN = "MaskDiffusion above attention alone, plain, dynamic"
ABOVE_ATTENTION = "MaskDiffusion above attention alone, dynamic"
ABOVE_KMEANS = "unsupervised, spectral above k-means"
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

NOWHERE = 255
"""In a truth: of no class."""


def settings(segmenter: Segmenter, options: Options) -> dict[str, Setting]:
    """Every row by its name: what the bundle recommends, and plain."""
    settled = segmenter.settle(options, named=True)
    named, alone = Setting.of("maskdiffusion", settled), Setting.of("attention", settled)
    rows = {}
    for prompt in PROMPTS:
        for name, setting in (
            ("attention alone, plain", replace(alone, refine=False)),
            ("attention alone", alone),
            ("MaskDiffusion, plain", replace(named, attention=0.0, refine=False)),
            ("MaskDiffusion", named),
        ):
            rows[f"{name}, {prompt}"] = replace(setting, dynamic=prompt == "dynamic")
    segments = segmenter.settle(replace(options, sharpness=None), named=False)
    spectral = Setting.of("unsupervised", segments)
    rows["unsupervised, spectral"] = spectral
    rows["unsupervised, k-means"] = Setting.of("kmeans", segments)
    rows["unsupervised, k found"] = replace(spectral, segments="auto")
    plain = replace(spectral, timestep=PAPER_TIMESTEP, sharpness=1.0, refine=False)
    rows["unsupervised, spectral, plain"] = plain
    rows["unsupervised, k-means, plain"] = replace(plain, method="kmeans")
    return rows


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
        """Mean area, mIoU of each method in per cent, differences in points, the mean absolute
        error of k."""
        areas = [np.nanmean(values) for values in self.areas.values() if values]
        table = {"area under ROC": float(np.mean(areas))}
        for method, counts in self.counts.items():
            table[method] = float(np.nanmean(iou(counts)[: len(CLASSES)]))
        for name, ours, theirs in DIFFERENCES:
            table[name] = table[ours] - table[theirs]
        table["error of the k found"] = float(np.abs(self.surplus).mean())
        return table


def _score_scene(
    segmenter: Segmenter, scene: Scene, rows: dict[str, Setting], scores: Scores
) -> None:
    look = Look(segmenter.network, scene.image)
    visible = [CLASSES.index(name) for name in scene.visible]
    seen = np.where(np.isin(scene.mask, visible), scene.mask, NOWHERE).astype(np.uint8)
    device = segmenter.network.device
    with device.active():
        for name, setting in rows.items():
            labels = label(Task(look, setting, CLASSES, seen))
            if METHODS[setting.method].kind == "segments":
                labels = match(scene.mask, labels, len(CLASSES))
            scores.add(name, scene.mask, labels)
        found = rows["unsupervised, k found"]
        features = look.features(found.timestep, None, None)
        _, k = kernels.cluster(features, "auto", "spectral", found.sharpness)
        scores.surplus.append(k - len(visible))
        alone = rows["attention alone, dynamic"]
        grid = look.class_maps(alone.timestep, scene.visible, alone.pooling, None, alone.mode)
        (maps,) = device.download(kernels.resize(grid, look.size))()
    for name, class_map in zip(scene.visible, maps, strict=True):
        area = roc_area(class_map, scene.mask == CLASSES.index(name))
        if not np.isnan(area):
            scores.areas.setdefault(name, []).append(area)


def score(
    engine: Path | None = None, scenes: int = 500, options: Options | None = None, first: int = 0
) -> Scores:
    """Score a bundle on held-out scenes `first` … `first + scenes - 1`."""
    segmenter, scores = Segmenter(engine), Scores()
    rows = settings(segmenter, options or Options())
    for seed in track(range(first, first + scenes), "scoring", console=Console(stderr=True)):
        scene = render(seed)
        if scene.visible:
            _score_scene(segmenter, scene, rows, scores)
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
@click.option("--attention", type=click.FloatRange(0, 1))
@click.option("--refine/--no-refine", default=None)
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
    attention: float | None,
    refine: bool | None,
    path: Path | None,
) -> None:
    """Print the embedded model's figures beside the bars they must reach."""
    options = Options(
        mode=mode,  # type: ignore[arg-type]
        pooling=pooling,  # type: ignore[arg-type]
        timestep=timestep,
        presence=presence,
        sharpness=sharpness,
        attention=attention,
        refine=refine,
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
