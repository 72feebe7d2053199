"""Scores of label maps: what is counted, Hungarian matching, IoU, area under the ROC curve."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

NO_CLASS: Final = -1
"""Prediction of a pixel that was given no class: an error whatever the truth."""

Labels: TypeAlias = NDArray[np.integer[Any]]
Counts: TypeAlias = NDArray[np.int64]


def confusion(truth: Labels, labels: Labels, classes: int) -> Counts:
    """Pixels by (truth, predicted), the one counter of all scores.

    Args:
        truth: class indices; a pixel with a value outside [0, classes) does not count.
        labels: class indices or segment numbers, or `NO_CLASS`; of the same shape.
        classes: how many.

    Returns:
        (classes, 1 + labels), at least as many labels as classes; the first column is of
        `NO_CLASS`.
    """
    columns = labels.astype(np.int64) - NO_CLASS
    width = 1 + max(classes, int(columns.max()))
    rows = np.where((truth >= 0) & (truth < classes), truth, classes)  # void is a row of its own
    pairs = rows * np.int64(width) + columns
    counts = np.bincount(pairs.ravel(), minlength=(classes + 1) * width)
    return counts.reshape(classes + 1, width)[:classes]


def assignment(overlap: Counts, *, positive: bool = False) -> Counts:
    """The Hungarian matching of largest total overlap: the class of each label, or `NO_CLASS`.

    Args:
        overlap: (classes, labels) pixels in common.
        positive: leave out pairs that have no pixel in common. Otherwise, with as many labels as
            classes or more, every class gets one; which one of those it shares nothing with is
            up to SciPy's solver.

    Returns:
        (labels,) int64.
    """
    from scipy.optimize import linear_sum_assignment

    names = np.full(overlap.shape[1], NO_CLASS, dtype=np.int64)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    kept = (overlap[rows, columns] > 0) | (not positive)
    names[columns[kept]] = rows[kept]
    return names


def match(truth: Labels, segments: Labels, classes: int) -> Labels:
    """Segments (H, W) renamed by the matching of largest overlap with the truth; a segment
    without a class, or without a pixel of its class, becomes `NO_CLASS`, which stays itself."""
    names = assignment(confusion(truth, segments, classes)[:, 1:], positive=True)
    renamed: Labels = np.append(names, NO_CLASS)[segments]  # `NO_CLASS` is the last
    return renamed


def hits_and_unions(counts: Counts) -> Counts:
    """(2, classes): all that IoU needs of a protocol's (classes, classes + 1) counts."""
    hit = np.diagonal(counts)
    return np.stack([hit, counts.sum(1) + counts[:, : len(counts)].sum(0) - hit])


def iou(counts: Counts) -> NDArray[np.float64]:
    """(classes,) intersection over union in per cent of a protocol's (classes, classes + 1)
    counts; NaN for a class in neither map."""
    hit, union = hits_and_unions(counts)
    return np.where(union > 0, 100 * hit / np.maximum(union, 1), np.nan)


def roc_area(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of a score map for a mask, ties counted half; NaN if one-sided."""
    from scipy.stats import rankdata

    inside = int(positive.sum())
    outside = positive.size - inside
    if not inside or not outside:
        return float("nan")
    ranks = rankdata(score.ravel())
    return float((ranks[positive.ravel()].sum() - inside * (inside + 1) / 2) / (inside * outside))
