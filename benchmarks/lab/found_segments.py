"""Is the number of segments that "auto" finds worth more than a fixed one?

    python -m mdrt.benchmarks.lab found --features vit.onnx --tree DATA --scenes 200

Any network that gives a picture patch tokens stands in for the features, so that the rule is asked
of real ones too. Every number is tried with the same clusterings, each on the network's own cells,
then Eq. 5 and 6 at full resolution. A figure is the mean over the pictures of each one's mIoU:
segments renamed by the matching of largest overlap, a segment left without a class an error, and
so is a class left without a segment; void pixels do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from ... import kernels
from ...cli.options import engine_option
from ...kernels import MAX_SEGMENTS, Grid, Method
from ...kernels.affinity import Affinity, CellAffinity, cosines
from ...runtime.blas import one_thread
from ...runtime.errors import DatasetError, MdrtError
from ...runtime.segmenter import Segmenter
from ...runtime.sessions.ort import OrtSession
from ..accuracy.datasets import NAMES, open_dataset
from ..accuracy.evaluate import shard
from ..accuracy.protocols import IGNORE, PROTOCOLS, figures
from ..metrics import Labels
from .scenes.renderer import CLASSES, render

MEAN: Final = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION: Final = np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's, as self-supervised vision transformers take them."""

PROTOCOL: Final = PROTOCOLS["hungarian-image-positive"]

WIDE_GAP: Final = 0.025
PART: Final = 0.6
"""Of the rules before: see `gap` and `parts`."""


@dataclass(frozen=True)
class Picture:
    """Features of one picture, on a grid, and its truth (H, W) uint8."""

    features: list[Grid]
    truth: NDArray[np.uint8]

    @property
    def classes(self) -> int:
        """How many occur in the truth."""
        return int((np.unique(self.truth) != IGNORE).sum())


@dataclass(frozen=True)
class Clustering:
    """One way to cluster; a power other than 1 is of the affinity between cells."""

    method: Method
    power: float = 1.0

    @property
    def name(self) -> str:
        if self.method == "kmeans":
            return "k-means"
        return f"spectral, power {self.power:g}"

    def labels(self, picture: Picture, k: int) -> Labels:
        """Segments (H, W) of a picture."""
        size = picture.features[0].size if self.power == 1 else None
        labels, count = kernels.cluster(picture.features, k, self.method, size, self.power)
        weights = kernels.cluster_weights(labels, count)
        averages = kernels.prototypes(picture.features, weights, weights.size, "paper")
        scores = kernels.score_maps(picture.features, averages, "paper")
        height, width = picture.truth.shape
        assigned: Labels = kernels.assign(scores, (height, width)).labels
        return assigned


def score(truth: NDArray[np.uint8], labels: Labels) -> float:
    """mIoU of one picture in per cent, over the classes in its truth."""
    classes = 1 + int(truth[truth != IGNORE].max())
    return figures(PROTOCOL.count(truth, labels, classes)).miou


def gap(picture: Picture) -> int:
    """The rule before for the plain cosines: the last k from 2 with a gap of `WIDE_GAP` or more
    between eigenvalues k and k + 1 of the Laplacian; else the widest."""
    affinity = Affinity(picture.features, picture.features[0].size)
    values, _ = kernels.spectral_embedding(affinity, min(MAX_SEGMENTS + 1, affinity.n))
    gaps = np.diff(values)[1:]
    return 2 + int(np.flatnonzero(gaps >= min(WIDE_GAP, gaps.max()))[-1])


def parts(picture: Picture, power: float) -> int:
    """The rule before for their powers: the eigenvalues below `PART` ** (power − 1), from 2."""
    affinity = CellAffinity(*cosines(picture.features), power)
    values, _ = kernels.spectral_embedding(affinity, min(MAX_SEGMENTS + 1, affinity.n))
    return max(2, min(MAX_SEGMENTS, int((values < PART ** (power - 1)).sum())))


class Extractor:
    """A network of patch tokens: (n, 3, h, w) in, (n, any number + h·w / patch², d) out."""

    def __init__(self, path: Path, side: int, patch: int) -> None:
        """Load a graph with one input.

        Raises:
            BundleError: ONNX Runtime cannot load it.
        """
        self._session = OrtSession(path)
        (self._input,) = self._session.inputs
        (self._tokens, *_) = self._session.outputs
        self.path, self.side, self.patch = path, side, patch

    def at(self, side: int) -> Extractor:
        """The same network for pictures of another size."""
        other = copy(self)
        other.side = side
        return other

    def __call__(self, image: NDArray[np.uint8]) -> Grid:
        """The features of a picture with its longer side at `side`.

        Raises:
            MdrtError: the network gives something else than tokens.
        """
        longest = max(image.shape[:2])
        rows, columns = (
            max(1, round(n * self.side / longest / self.patch)) for n in image.shape[:2]
        )
        size = (columns * self.patch, rows * self.patch)
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        values = (np.asarray(resized, np.float32) / 255 - MEAN) / DEVIATION
        feeds = {self._input: values.transpose(2, 0, 1)[None]}
        tokens = self._session.infer(feeds, [self._tokens])[self._tokens]
        if tokens.ndim != 3 or tokens.shape[1] < rows * columns:
            raise MdrtError(
                f"--features {self.path} gave {tokens.shape} for a picture of {rows}×{columns} "
                f"patches, expected (1, at least {rows * columns}, channels); check --patch"
            )
        own = tokens[0, -rows * columns :].astype(np.float32)  # class and registers come first
        return Grid(np.ascontiguousarray(own.T).reshape(-1, rows, columns))


def of_tree(
    text: str, split: str, part: str | None, extract: Callable[[NDArray[np.uint8]], Grid]
) -> Iterator[Picture]:
    """The pictures of a data set, FOLDER or NAME=FOLDER; those without a truth left out."""
    name, _, root = text.partition("=") if "=" in text else ("folder", "", text)
    if name not in NAMES:
        raise DatasetError(f"--tree {text}: unknown data set {name!r}; of {', '.join(NAMES)}")
    dataset = open_dataset(name, Path(root), split)
    indices = [i for i in shard(len(dataset), part, None) if dataset.ids[i] not in dataset.missing]
    for index in track(indices, name, console=Console(stderr=True)):
        sample = dataset.load(index)
        if (sample.truth != IGNORE).any():
            yield Picture([extract(sample.image)], sample.truth)


def of_scenes(seeds: range, engine: Path | None) -> Iterator[Picture]:
    """The scenes world with a bundle's features, at the timestep it recommends."""
    segmenter = Segmenter(engine)
    timestep = segmenter.settle("spectral").timestep
    for seed in track(seeds, "scenes", console=Console(stderr=True)):
        scene = render(seed)
        visible = [CLASSES.index(name) for name in scene.visible]
        truth = np.where(np.isin(scene.mask, visible), scene.mask, IGNORE).astype(np.uint8)
        if visible:
            taps = segmenter.look(scene.image).taps
            yield Picture(taps.features(timestep, taps.empty), truth)


@dataclass(frozen=True)
class Numbers:
    """What one picture gave: numbers by rule, and by clustering the mIoU of every number."""

    numbers: Mapping[str, int]
    curves: Mapping[str, Sequence[float]]


def measure(picture: Picture, clusterings: Sequence[Clustering], most: int) -> Numbers:
    """Every number up to `most`, and every rule's, with every clustering."""
    rules: dict[str, Callable[[], int]] = {
        "found": lambda: kernels.found(picture.features, MAX_SEGMENTS),
        "before, power 1": lambda: gap(picture),
    } | {
        f"before, power {c.power:g}": lambda c=c: parts(picture, c.power)
        for c in clusterings
        if c.power != 1
    }
    numbers = {"classes present": picture.classes} | {name: rule() for name, rule in rules.items()}
    wanted = {*range(1, most + 1), *numbers.values()}
    curves = {}
    for clustering in clusterings:
        curve = [float("nan")] * (max(wanted) + 1)
        for k in wanted:
            curve[k] = score(picture.truth, clustering.labels(picture, k))
        curves[clustering.name] = curve
    return Numbers(numbers, curves)


def table(results: Sequence[Numbers], most: int) -> str:
    """Rows by rule, as Markdown: mIoU by clustering, the correlation with the number of classes
    present, the mean distance from it, and the mean."""
    names = list(results[0].curves)
    truth = np.array([result.numbers["classes present"] for result in results])

    def row(title: str, numbers: NDArray[np.integer[Any]], figures: Sequence[str]) -> str:
        varies = numbers.std() > 0 and truth.std() > 0
        relation = f"{np.corrcoef(truth, numbers)[0, 1]:.2f}" if varies else "–"
        distance = f"{np.abs(numbers - truth).mean():.2f}"
        return "| " + " | ".join([title, *figures, relation, distance, f"{numbers.mean():.1f}"])

    lines = ["| number | " + " | ".join(names) + " | correlation | distance | mean |"]
    lines.append("|---|" + "--:|" * (len(names) + 3))
    for rule in results[0].numbers:
        numbers = np.array([result.numbers[rule] for result in results])
        means = [
            np.mean([r.curves[name][n] for r, n in zip(results, numbers, strict=True)])
            for name in names
        ]
        lines.append(row(rule, numbers, [f"{mean:.1f}" for mean in means]) + " |")
    fixed = {
        name: np.mean([result.curves[name][1 : most + 1] for result in results], axis=0)
        for name in names
    }
    for k in range(1, most + 1):
        best = [k == 1 + int(fixed[name].argmax()) for name in names]
        figures = [
            f"**{fixed[name][k - 1]:.1f}**" if first else f"{fixed[name][k - 1]:.1f}"
            for name, first in zip(names, best, strict=True)
        ]
        lines.append(row(f"always {k}", np.full(len(results), k), figures) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--features", type=click.Path(path_type=Path), help="ONNX network for --tree.")
@click.option("--side", default=518, show_default=True, help="Longer side it is given.")
@click.option("--patch", default=14, show_default=True, help="Pixels a side of a token.")
@click.option("--tree", "trees", multiple=True, help="FOLDER, or NAME=FOLDER of a data set.")
@click.option("--split", default="val", show_default=True)
@click.option("--shard", "part", metavar="I/N", help="Every N-th picture of trees from the I-th.")
@click.option("--scenes", default=0, show_default=True, help="How many scenes.")
@click.option("--first", default=0, show_default=True, help="Seed of the first.")
@engine_option
@click.option("--power", "powers", multiple=True, type=float, default=(1, 4, 8), show_default=True)
@click.option("--most", default=10, show_default=True, help="Largest fixed number.")
def main(
    features: Path | None,
    side: int,
    patch: int,
    trees: tuple[str, ...],
    split: str,
    part: str | None,
    scenes: int,
    first: int,
    engine: Path | None,
    powers: tuple[float, ...],
    most: int,
) -> None:
    """The number of segments found beside every fixed one, on trees and on scenes."""
    if trees and features is None:
        raise click.UsageError("--tree needs --features, the network that sees its pictures")
    clusterings = [*(Clustering("spectral", p) for p in powers), Clustering("kmeans")]
    sets: dict[str, Iterator[Picture]] = {}
    if features is not None:
        extract = Extractor(features, side, patch)
        sets = {text: of_tree(text, split, part, extract) for text in trees}
    if scenes:
        sets["scenes"] = of_scenes(range(first, first + scenes), engine)
    for name, pictures in sets.items():
        results = []
        for picture in pictures:
            with one_thread():  # as mdrt has it
                results.append(measure(picture, clusterings, most))
        if results:
            click.echo(f"\n{name}, {len(results)} pictures\n\n{table(results, most)}")
