"""The unnamed heads on real photographs, seen by any network of patch tokens.

    python -m mdrt.benchmarks.lab photographs --features vit.onnx --tree msrc --tree voc21=.

Every head's segments on the network's own cells, with as many as classes are present and with as
many as it finds, then Eq. 5 and 6 at full resolution; a figure is the mean over the pictures of
each one's mIoU as `found` counts it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

import click
import numpy as np
from numpy.typing import NDArray

from ... import kernels
from ...kernels import Array, Grid
from ...runtime.blas import one_thread
from ...runtime.look.taps import SCALES
from ...runtime.look.tiles import scaled
from ..metrics import Labels
from .found_segments import Extractor, Picture, of_tree, score

Count: TypeAlias = int | Literal["auto"]
Clusterer: TypeAlias = Callable[[Sequence[Grid], Count], tuple[Array, int]]


def _cells(features: Sequence[Grid], count: Count, power: float) -> tuple[Array, int]:
    return kernels.cluster(features, count, "spectral", None, power)


def _kmeans(features: Sequence[Grid], count: Count) -> tuple[Array, int]:
    return kernels.cluster(features, count, "kmeans", features[0].size)


HEADS: Final[Mapping[str, Clusterer]] = {
    "kmeans": _kmeans,
    "spectral": kernels.cluster,
    "spectral, cells": partial(_cells, power=1),
    "spectral, cells, power 4": partial(_cells, power=4),
    "spectral, cells, power 8": partial(_cells, power=8),
    "ncut": kernels.ncut,
    "ncut, α 5, τ 0.7": partial(kernels.ncut, alpha=5, tau=0.7),
    "ncut, autosc": partial(kernels.ncut, method="autosc"),
    "multicut": kernels.multicut,
}


class Views:
    """A picture seen at several sizes, and mirrored if asked for: `kernels.blended`."""

    def __init__(self, first: Extractor, scales: Sequence[float], mirror: bool) -> None:
        self._mirror = mirror
        sides = [scaled(first.side, first.patch, scale) for scale in scales]
        self._extractors = [first, *map(first.at, sides)]

    def __call__(self, image: NDArray[np.uint8]) -> Grid:
        """The features of a picture, on the cells of the first size."""
        views = []
        for extract in self._extractors:
            views.append(extract(image))
            if self._mirror:
                turned = extract(np.ascontiguousarray(image[:, ::-1]))
                views.append(Grid(turned.values[..., ::-1], turned.extent))
        return views[0] if len(views) == 1 else kernels.blended(views)


def segment(picture: Picture, cluster: Clusterer, count: Count) -> tuple[Labels, int]:
    """Labels (H, W) of a picture, and how many segments there are."""
    labels, found = cluster(picture.features, count)
    weights = kernels.cluster_weights(labels, found)
    averages = kernels.prototypes(picture.features, weights, weights.size, "paper")
    scores = kernels.score_maps(picture.features, averages, "paper")
    height, width = picture.truth.shape
    assigned: Labels = kernels.assign(scores, (height, width)).labels
    return assigned, found


def table(pictures: Sequence[Picture]) -> str:
    """Rows by head, as Markdown."""
    lines = [
        "| head | k present | k found | mean k found | milliseconds |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, cluster in HEADS.items():
        given, found, counts, took = [], [], [], []
        for picture in pictures:
            given.append(score(picture.truth, segment(picture, cluster, picture.classes)[0]))
            started = time.perf_counter()
            labels, k = segment(picture, cluster, "auto")
            took.append(time.perf_counter() - started)
            found.append(score(picture.truth, labels))
            counts.append(k)
        figures = (f"{statistics.mean(f):.1f}" for f in (given, found, counts))
        lines.append(f"| {name} | {' | '.join(figures)} | {1e3 * statistics.median(took):.0f} |")
    present = statistics.mean(picture.classes for picture in pictures)
    return "\n".join([*lines, "", f"{present:.1f} classes are present on average."])


@click.command()
@click.option("--features", type=click.Path(path_type=Path), required=True, help="ONNX network.")
@click.option("--side", default=518, show_default=True, help="Longer side it is given.")
@click.option("--scales", is_flag=True, help="Seen at other sizes too, as the setting has it.")
@click.option("--mirror", is_flag=True, help="Seen mirrored too.")
@click.option("--patch", default=14, show_default=True, help="Pixels a side of a token.")
@click.option(
    "--tree", "trees", multiple=True, required=True, help="FOLDER, or NAME=FOLDER of a data set."
)
@click.option("--split", default="val", show_default=True)
@click.option("--shard", "part", metavar="I/N", help="Every N-th picture from the I-th.")
def main(
    features: Path,
    side: int,
    scales: bool,
    mirror: bool,
    patch: int,
    trees: tuple[str, ...],
    split: str,
    part: str | None,
) -> None:
    """Every unnamed head on the pictures of data sets, with given and with found numbers."""
    extract = Views(Extractor(features, side, patch), SCALES if scales else (), mirror)
    for tree in trees:
        pictures = list(of_tree(tree, split, part, extract))
        if pictures:
            with one_thread():  # as mdrt has it: BLAS's own threads wait for one another
                rows = table(pictures)
            click.echo(f"\n{tree}, {len(pictures)} pictures\n\n{rows}")
