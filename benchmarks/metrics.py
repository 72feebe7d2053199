"""Scores of label maps: confusion matrix, mIoU, Hungarian matching, area under the ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

Labels = NDArray[np.integer]


def confusion(truth: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts of (truth, predicted); values outside [0, classes) are ignored."""
    valid = (truth >= 0) & (truth < classes) & (predicted >= 0) & (predicted < classes)
    pairs = truth[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,) intersection over union in per cent; NaN for a class in neither map."""
    hit = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hit
    return np.where(union > 0, 100 * hit / np.maximum(union, 1), np.nan)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """mIoU in per cent over the classes that occur in one confusion matrix."""
    return float(np.nanmean(iou(counts)))


def assignment(overlap: NDArray[np.int64], *, positive: bool = False) -> NDArray[np.int64]:
    """The Hungarian matching of largest total overlap: the class of each label, -1 for none.

    Args:
        overlap: (classes, labels) pixels in common.
        positive: leave out pairs that have no pixel in common. Otherwise, with as many labels as
            classes or more, every class gets one; which one of those it shares nothing with is
            up to SciPy's solver.

    Returns:
        (labels,) int64.
    """
    names = np.full(overlap.shape[1], -1, dtype=np.int64)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    kept = (overlap[rows, columns] > 0) | (not positive)
    names[columns[kept]] = rows[kept]
    return names


def match(truth: Labels, segments: Labels, classes: int) -> Labels:
    """Rename segments by the Hungarian matching of largest total overlap with the truth.

    A segment left without a class, or without a pixel of its class, becomes -1 and counts as an
    error of the class under it.
    """
    width = int(segments.max()) + 1
    pairs = truth.ravel().astype(np.int64) * width + segments.ravel()
    overlap = np.bincount(pairs, minlength=classes * width).reshape(classes, width)
    matched: Labels = assignment(overlap, positive=True)[segments]
    return matched


def roc_area(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of a score map for a mask, ties counted half; NaN if one-sided."""
    inside = int(positive.sum())
    outside = positive.size - inside
    if not inside or not outside:
        return float("nan")
    ranks = rankdata(score.ravel())
    return float((ranks[positive.ravel()].sum() - inside * (inside + 1) / 2) / (inside * outside))
