"""How predictions are compared with the truth: protocols, whose id stands beside every figure.

Whatever is scored becomes counts per picture, exact integers: they add up over pictures, shards and
interrupted runs to the same data-set-wide confusion matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..metrics import NO_CLASS, Counts, Labels, assignment, confusion, hits_and_unions, iou
from .background import BackgroundSweep

IGNORE: Final = 255
"""Truth of a pixel that does not count."""

BOUNDARY_SHARE: Final = 0.02
"""Width of a boundary as a share of the picture's diagonal (Cheng et al. 2021, §4)."""


@dataclass(frozen=True)
class Protocol:
    """One way to compare.

    Attributes:
        id: printed beside every figure.
        help: what it does, in a line.
        matching: how predicted labels become classes: they are classes ("none"), are renamed
            picture by picture ("image"), or once for the whole data set ("dataset").
        positive: a class is matched only to a label that it shares a pixel with. Published
            protocols match every class as long as labels last: a label too many is, with all its
            pixels, a false positive of some class that it never meets.
        grid: (rows, columns) both are brought to by the nearest neighbour; None keeps every pixel.
        crop: the picture's shorter side is resized to it and the middle square cut out, before
            the picture is segmented; None leaves it as it is.
        average: whether mIoU is that of the whole data set's confusion matrix, or the mean of the
            mIoU of every picture.
        leftovers: where the data set has a background, labels that are matched to no other class
            by a shared pixel become one label, which the background is then matched to.
        sweep: scores of the background that are tried; the best on what is evaluated counts.
    """

    id: str
    help: str
    matching: Literal["none", "image", "dataset"] = "none"
    positive: bool = False
    grid: tuple[int, int] | None = None
    crop: int | None = None
    average: Literal["data set", "mean over pictures"] = "data set"
    leftovers: bool = False
    sweep: BackgroundSweep | None = None

    @property
    def label_size(self) -> str:
        """Where labels are compared, in words."""
        if self.grid is not None:
            return "{}×{}, nearest".format(*self.grid)
        return "every pixel" if self.crop is None else f"the middle {self.crop}×{self.crop}"

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

    def count(
        self,
        truth: NDArray[np.uint8],
        labels: Labels,
        classes: int,
        background: int | None = None,
    ) -> Counts:
        """One picture's counts of (truth, predicted).

        Args:
            truth: (H, W), class index or `IGNORE`.
            labels: (H, W), class index or segment number, or `NO_CLASS`; of a sweep
                (values, H, W).
            classes: how many.
            background: the class that it is, if there is one.

        Returns:
            (classes, classes + 1), the last column for `NO_CLASS`; of a sweep as many below each
            other as values; where labels are matched by data set (classes, 1 + labels), the first
            one for `NO_CLASS`.
        """
        if self.sweep is not None:
            alone = replace(self, sweep=None)
            return np.concatenate([alone.count(truth, each, classes) for each in labels])
        if self.grid is not None:
            truth, labels = (_nearest(values, self.grid) for values in (truth, labels))
        counts = confusion(truth, labels, classes)
        if self.matching == "none":
            return np.roll(counts, -1, axis=1)
        if self.leftovers and background is not None:
            counts = _leftovers(counts, background)
        return self.renamed(counts, counts) if self.matching == "image" else counts

    def settled(self, counts: Sequence[Counts], classes: int) -> list[Counts]:
        """(classes, classes + 1) of every picture, once what is renamed or chosen over the whole
        data set is."""
        if self.matching == "dataset":
            whole = _sum(counts, classes)
            return [self.renamed(part, whole) for part in counts]
        if self.sweep is not None:
            best = self._best(counts)
            return [part[best * classes : (best + 1) * classes] for part in counts]
        return list(counts)

    def chosen(self, counts: Sequence[Counts]) -> float | None:
        """The value of the sweep with the highest mIoU over these pictures; None without one."""
        return None if self.sweep is None else self.sweep.values[self._best(counts)]

    def _best(self, counts: Sequence[Counts]) -> int:
        """Which value of the sweep it is."""
        assert self.sweep is not None
        each = np.split(np.sum(counts, axis=0), len(self.sweep.values))
        return int(np.nan_to_num([figures(part).miou for part in each], nan=-1).argmax())

    def total(self, counts: Sequence[Counts], classes: int) -> Counts:
        """The data-set-wide confusion matrix (classes, classes + 1) of pictures' counts."""
        return _sum(self.settled(counts, classes), classes)

    def score(self, counts: Sequence[Counts], classes: int) -> Figures:
        """The figures of pictures' counts."""
        if self.average == "data set":
            return figures(self.total(counts, classes))
        each = [figures(part) for part in self.settled(counts, classes)]
        by_class = np.array([part.iou for part in each])
        return Figures(
            _mean(np.array([part.miou for part in each])),
            _mean(np.array([part.accuracy for part in each])),
            np.array([_mean(column) for column in by_class.T]),
        )

    def renamed(self, counts: Counts, whole: Counts) -> Counts:
        """(classes, classes + 1) of (classes, 1 + labels) counts, the label of each class taken
        from the matching of `whole`, as wide or wider; all that is left over is `NO_CLASS`."""
        classes = len(counts)
        names = assignment(whole[:, 1:], positive=self.positive)
        found = np.zeros((classes, classes + 1), dtype=np.int64)
        places = np.concatenate([[classes], np.where(names == NO_CLASS, classes, names)])
        np.add.at(found.T, places[: counts.shape[1]], counts.T)
        return found


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
            "segments renamed picture by picture as DiffSeg does, which the paper follows: every "
            "class takes one as long as they last, shared pixels or none; every pixel",
            matching="image",
        ),
        Protocol(
            "hungarian-image-positive",
            "the same, but a segment that shares no pixel with its class is an error of the class "
            "under it alone (docs/evaluation.md); higher, and like no published figure",
            matching="image",
            positive=True,
        ),
        Protocol(
            "hungarian-image-512",
            "as hungarian-image on the middle 512² of the picture resized to it",
            matching="image",
            crop=512,
        ),
        Protocol(
            "hungarian-image-320",
            "as hungarian-image on the middle 320² of the picture resized to it",
            matching="image",
            crop=320,
        ),
        Protocol(
            "hungarian-dataset",
            "labels renamed once for the data set as PiCIE and STEGO do: every class takes one; "
            "those beyond the number of classes are errors of the class under them",
            matching="dataset",
        ),
        Protocol(
            "hungarian-dataset-320",
            "the same on the middle 320² of the picture resized to it",
            matching="dataset",
            crop=320,
        ),
        # eval_diffcut_openvoc.py: torchmetrics' JaccardIndex a picture, added up and divided by
        # their number; labels by the nearest neighbour
        Protocol(
            "miou-by-image",
            "the mIoU of every picture at 1024², averaged over pictures, as DiffCut's "
            "open-vocabulary figures; a class counts as often as it occurs, no data-set mIoU",
            grid=(1024, 1024),
            average="mean over pictures",
        ),
        # eval_diffcut.py, hungarian_matching twice; Falcon (arXiv 2504.05613) follows it
        Protocol(
            "hungarian-image-128",
            "as hungarian-image with labels at 128², and where there is a background, all segments "
            "that no other class takes are it, as DiffCut and Falcon count; the truth says which",
            matching="image",
            grid=(128, 128),
            leftovers=True,
        ),
        # GoCA (arXiv 2603.06178): score of the background + offset, each evaluated, best reported
        Protocol(
            "miou-best-offset",
            "the best of nine offsets (-0.4 to 0.4) to the background's score, as GoCA: chosen on "
            "the evaluated split, so an upper bound",
            sweep=BackgroundSweep(tuple(n / 10 for n in range(-4, 5)), own=True),
        ),
        # DiffSegmenter (arXiv 2309.02773), voc12/ptp_stable_best.py: a constant background score
        Protocol(
            "miou-best-threshold",
            "the best of 45 background scores (0.30 to 0.74), as DiffSegmenter: chosen on the "
            "evaluated split, so an upper bound",
            sweep=BackgroundSweep(tuple(n / 100 for n in range(30, 75)), own=False),
        ),
    )
}


def _leftovers(counts: Counts, background: int) -> Counts:
    """Counts (classes, 1 + labels) with all labels made one that no class but the background
    shares a matched pixel with (DiffCut, eval_diffcut.py)."""
    others = np.delete(counts[:, 1:], background, axis=0)
    left = 1 + np.flatnonzero(assignment(others, positive=True) == NO_CLASS)
    joined = counts.copy()
    joined[:, left] = 0
    joined[:, left[:1]] = counts[:, left].sum(axis=1, keepdims=True)
    return joined


def _mean(values: NDArray[np.float64]) -> float:
    """Of those that are numbers; NaN of none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _sum(counts: Sequence[Counts], classes: int) -> Counts:
    """The sum of pictures' counts, with as many columns as the widest."""
    width = max((part.shape[1] for part in counts), default=classes + 1)
    whole = np.zeros((classes, width), dtype=np.int64)
    for part in counts:
        whole[:, : part.shape[1]] += part
    return whole


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
    by_class = iou(counts)
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

    What is renamed or chosen over the data set is so over all pictures.
    """
    counts = protocol.settled(counts, classes)
    if protocol.average == "mean over pictures":
        each = np.array([figures(part).miou for part in counts])
        return np.array([_mean(each[draw]) for draw in _draws(len(each), draws, seed)])
    parts = np.stack([hits_and_unions(part) for part in counts]).astype(np.float64)
    values = []
    for draw in _draws(len(parts), draws, seed):
        times = np.bincount(draw, minlength=len(parts))
        hit, union = np.tensordot(times, parts, axes=1)
        seen = union > 0
        values.append(100 * float((hit[seen] / union[seen]).mean()) if seen.any() else np.nan)
    return np.array(values)


def _draws(pictures: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """So many times as many pictures, with replacement; the same for every entry."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield random.integers(0, pictures, pictures)


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
    from scipy.ndimage import minimum_filter

    inner: NDArray[np.bool_] = minimum_filter(mask, 2 * width + 1, mode="constant", cval=0)
    return mask & ~inner


def _nearest(values: Labels, grid: tuple[int, int]) -> Any:
    rows, columns = (
        ((np.arange(n_out) + 0.5) * n_in / n_out).astype(int)
        for n_out, n_in in zip(grid, values.shape, strict=True)
    )
    return values[rows[:, None], columns[None, :]]
