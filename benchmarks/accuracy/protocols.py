"""How predictions are compared with the truth: protocols, whose id stands beside every figure.

Whatever is scored becomes counts per picture, exact integers: they add up over pictures, shards and
interrupted runs to the same data-set-wide confusion matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import minimum_filter
from scipy.optimize import linear_sum_assignment

from ..metrics import iou, match

IGNORE: Final = 255
"""Truth of a pixel that does not count."""

NO_CLASS: Final = -1
"""Prediction of a pixel that was given no class: an error whatever the truth."""

BOUNDARY_SHARE: Final = 0.02
"""Width of a boundary as a share of the picture's diagonal (Cheng et al. 2021, §4)."""

Labels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """One way to compare.

    Attributes:
        id: printed beside every figure.
        help: what it does, in a line.
        matching: how predicted labels become classes: they are classes ("none"), are renamed
            picture by picture ("image"), or once for the whole data set ("dataset").
        grid: (rows, columns) both are brought to by the nearest neighbour; None keeps every pixel.
        crop: the picture's shorter side is resized to it and the middle square cut out, before
            the picture is segmented; None leaves it as it is.
    """

    id: str
    help: str
    matching: Literal["none", "image", "dataset"] = "none"
    grid: tuple[int, int] | None = None
    crop: int | None = None

    def prepare(
        self, image: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) and its truth (H, W) as they are segmented and compared."""
        if self.crop is None:
            return image, truth
        scale = self.crop / min(truth.shape)
        height, width = (max(self.crop, round(side * scale)) for side in truth.shape)
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        box = (left, top, left + self.crop, top + self.crop)
        cut = [
            Image.fromarray(values).resize((width, height), how).crop(box)
            for values, how in (
                (image, Image.Resampling.BILINEAR),
                (truth, Image.Resampling.NEAREST),
            )
        ]
        return np.asarray(cut[0]), np.asarray(cut[1])

    def count(self, truth: NDArray[np.uint8], labels: Labels, classes: int) -> Counts:
        """One picture's counts, (classes, columns) of (truth, predicted).

        Columns are the classes and one for `NO_CLASS`; more where the labels are segments that
        are matched by data set.

        Args:
            truth: (H, W), class index or `IGNORE`.
            labels: (H, W), class index or segment number, or `NO_CLASS`.
            classes: how many.
        """
        if self.grid is not None:
            truth, labels = (_nearest(values, self.grid) for values in (truth, labels))
        if self.matching == "image":
            labels = _matched(truth, labels, classes)
        columns = labels.astype(np.int64)
        columns[columns == NO_CLASS] = classes
        width = max(classes + 1, int(columns.max()) + 1)
        pairs = np.minimum(truth, classes) * np.int64(width) + columns  # void is a row of its own
        counts = np.bincount(pairs.ravel(), minlength=(classes + 1) * width)
        return counts.reshape(classes + 1, width)[:classes]

    def total(self, counts: Sequence[Counts], classes: int) -> Counts:
        """The data-set-wide confusion matrix (classes, classes + 1) of pictures' counts."""
        width = max((part.shape[1] for part in counts), default=classes + 1)
        whole = np.zeros((classes, width), dtype=np.int64)
        for part in counts:
            whole[:, : part.shape[1]] += part
        if self.matching == "dataset":
            return rename(whole, assignment(whole), classes)
        return whole


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    protocol.id: protocol
    for protocol in (
        Protocol("miou", "one confusion matrix over the data set, every pixel"),
        Protocol(
            "miou-256x352",
            "the same on the official code's grid of 256 × 352",
            grid=(256, 352),
        ),
        Protocol(
            "hungarian-image",
            "segments renamed picture by picture (DiffSeg, which the paper follows), every pixel",
            matching="image",
        ),
        Protocol(
            "hungarian-image-512",
            "the same on the middle 512² of the picture resized to it",
            matching="image",
            crop=512,
        ),
        Protocol(
            "hungarian-image-320",
            "the same on the middle 320² of the picture resized to it",
            matching="image",
            crop=320,
        ),
        Protocol(
            "hungarian-dataset",
            "labels renamed once for the data set (PiCIE, STEGO), extra ones are errors",
            matching="dataset",
        ),
        Protocol(
            "hungarian-dataset-320",
            "the same on the middle 320² of the picture resized to it",
            matching="dataset",
            crop=320,
        ),
    )
}


def assignment(counts: Counts) -> NDArray[np.int64]:
    """The Hungarian renaming of a confusion matrix (classes, labels): each label's class.

    A label that is left over, or shares no pixel with its class, gets `NO_CLASS`.
    """
    names = np.full(counts.shape[1], NO_CLASS, dtype=np.int64)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    useful = counts[rows, columns] > 0
    names[columns[useful]] = rows[useful]
    return names


def rename(counts: Counts, names: NDArray[np.int64], classes: int) -> Counts:
    """A confusion matrix (classes, labels) with its columns gathered by name, the last one for
    `NO_CLASS`: (classes, classes + 1)."""
    renamed = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(renamed.T, np.where(names == NO_CLASS, classes, names)[: counts.shape[1]], counts.T)
    return renamed


@dataclass(frozen=True)
class Figures:
    """What a confusion matrix says, in per cent; NaN for a class in neither map.

    Attributes:
        miou: mean of `iou` over the classes that occur.
        accuracy: share of the pixels that are right.
        iou: (classes,).
    """

    miou: float
    accuracy: float
    iou: NDArray[np.float64]


def figures(counts: Counts) -> Figures:
    """mIoU, pixel accuracy and IoU by class of (classes, classes + 1) counts."""
    square = np.vstack([counts, np.zeros((1, counts.shape[1]), dtype=np.int64)])
    by_class = iou(square)[: len(counts)]
    seen = ~np.isnan(by_class)
    right, all_pixels = np.trace(counts), counts.sum()
    return Figures(
        float(by_class[seen].mean()) if seen.any() else float("nan"),
        100 * float(right / all_pixels) if all_pixels else float("nan"),
        by_class,
    )


def interval(
    protocol: Protocol, counts: Sequence[Counts], classes: int, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of mIoU, in per cent: pictures drawn with replacement."""
    return _middle(_bootstrap(protocol, counts, classes, draws, seed))


def gain_interval(
    protocol: Protocol,
    better: Sequence[Counts],
    worse: Sequence[Counts],
    classes: int,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % bootstrap interval of one mIoU less another, in points, over the same pictures.

    Every draw takes the same pictures for both (a paired bootstrap): what makes a picture hard
    for the two alike cancels.

    Raises:
        ValueError: the numbers of pictures differ.
    """
    if len(better) != len(worse):
        raise ValueError(f"{len(better)} pictures beside {len(worse)}: expected the same ones")
    first, second = (
        _bootstrap(protocol, counts, classes, draws, seed) for counts in (better, worse)
    )
    return _middle(first - second)


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _bootstrap(
    protocol: Protocol, counts: Sequence[Counts], classes: int, draws: int, seed: int
) -> NDArray[np.float64]:
    """(draws,) mIoU in per cent of as many pictures, drawn with replacement.

    For matching "dataset" the renaming is that of all pictures.
    """
    if protocol.matching == "dataset":
        width = max(part.shape[1] for part in counts)
        padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in counts]
        names = assignment(sum(padded, np.zeros((classes, width), dtype=np.int64)))
        counts = [rename(part, names, classes) for part in padded]
    parts = np.stack([_margins(part) for part in counts]).astype(np.float64)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        times = np.bincount(random.integers(0, len(parts), len(parts)), minlength=len(parts))
        hit, union = np.tensordot(times, parts, axes=1)
        seen = union > 0
        values.append(100 * float((hit[seen] / union[seen]).mean()) if seen.any() else np.nan)
    return np.array(values)


def _margins(counts: Counts) -> NDArray[np.int64]:
    """(2, classes): hits and unions, all that mIoU needs of a picture."""
    classes = len(counts)
    hit = np.diagonal(counts)
    return np.stack([hit, counts.sum(1) + counts[:, :classes].sum(0) - hit])


def boundary_counts(truth: NDArray[np.uint8], labels: Labels, classes: int) -> Counts:
    """(2, classes): intersections and unions of the classes' boundaries in one picture.

    Boundary IoU (Cheng et al. 2021, Eq. 1): of each mask only the pixels within `BOUNDARY_SHARE`
    of the diagonal from its contour count; the picture's own edge is part of the contour. Pixels
    whose truth is `IGNORE` count in neither.
    """
    width = max(1, round(BOUNDARY_SHARE * float(np.hypot(*truth.shape))))
    known = truth != IGNORE
    found = np.zeros((2, classes), dtype=np.int64)
    for name in np.union1d(truth[known], labels[known]):
        if not 0 <= name < classes:
            continue
        ours, theirs = (_boundary(mask == name, width) & known for mask in (labels, truth))
        found[:, name] = (ours & theirs).sum(), (ours | theirs).sum()
    return found


def _boundary(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask at most `width` (in either axis) from what is not of it."""
    inner: NDArray[np.bool_] = minimum_filter(mask, 2 * width + 1, mode="constant", cval=0)
    return mask & ~inner


def _matched(truth: NDArray[np.uint8], labels: Labels, classes: int) -> Labels:
    """Segments renamed to the classes they overlap most, by the pixels whose truth is known."""
    known = truth != IGNORE
    if not known.any():
        return np.full(labels.shape, NO_CLASS, dtype=np.int64)
    renamed = np.full(labels.shape, NO_CLASS, dtype=np.int64)
    segmented = known & (labels != NO_CLASS)
    if segmented.any():
        renamed[segmented] = match(truth[segmented], labels[segmented], classes)
    return renamed


def _nearest(values: Labels, grid: tuple[int, int]) -> Any:
    rows, columns = (
        ((np.arange(n_out) + 0.5) * n_in / n_out).astype(int)
        for n_out, n_in in zip(grid, values.shape, strict=True)
    )
    return values[rows[:, None], columns[None, :]]
