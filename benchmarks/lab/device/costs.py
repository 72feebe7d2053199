"""What comes after the networks, timed on a GPU by its own events, beside NumPy and the floors.

Arrays lie on the GPU before the clock starts, and labels stay there: a picture waits for what is
timed between its network and its download. Times hold the gaps between launches, as a picture's do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .... import kernels
from ....kernels import Grid
from ..kernels_bench import CASES, Workload, inputs
from .counts import GPUS, after_the_networks

REPEATS: Final = 30
SECONDS: Final = 1.5
"""What an operation may take to be timed, of 3 to `REPEATS` calls."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Cost:
    """One operation or head on a GPU."""

    case: str
    name: str
    gpu_ms: float
    """Median, by the GPU's events."""
    numpy_ms: float
    """One call on the same machine's processor."""
    peak_mb: float
    """The most memory that CuPy's pool took above the inputs."""
    agrees: float
    """Share of the values that equal NumPy's: exactly for labels, to 1e-3 of the largest else."""
    scores_agree: float = 1.0
    """The same of a head's winning scores: where labels differ and these do not, classes tie."""
    floor_ms: float | None = None
    """From docs/notes/device.md's counts, where this operation has one for this GPU."""


STAGES: Final = {
    "pooled attention": "class maps, exp",
    "pixel norms": "pixel norms",
    "prototypes": "prototypes, paper",
    "score maps": "score maps",
    "labels and confidences": "labels and confidences",
}
"""docs/notes/device.md's stages after the networks, and what they are called here."""


def costs(xp: ModuleType, gpu: str) -> Iterator[Cost]:
    """Measure every case on CuPy's arrays.

    Args:
        xp: cupy.
        gpu: its name, to find its published peaks by.
    """
    peaks = next((peak for peak in GPUS if peak.name in gpu), None)
    floors = {
        STAGES[stage.name]: 1000 * peaks.floor(stage) for stage in after_the_networks() if peaks
    }
    for case in ("named", "large", "unnamed"):
        ours, theirs = _tasks(case, xp), _tasks(case, np)
        for (name, on_gpu), (_, on_host) in zip(ours, theirs, strict=True):
            yield _cost(
                xp, case, name, on_gpu, on_host, floors.get(name) if case == "named" else None
            )


def _cost(
    xp: ModuleType, case: str, name: str, on_gpu: Call, on_host: Call, floor: float | None
) -> Cost:
    pool = xp.get_default_memory_pool()
    found = [xp.asnumpy(part) for part in _parts(on_gpu())]
    pool.free_all_blocks()
    before = pool.total_bytes()
    for _ in range(2):
        on_gpu()
    peak = pool.total_bytes() - before
    milliseconds: list[float] = []
    while len(milliseconds) < 3 or (
        len(milliseconds) < REPEATS and sum(milliseconds) < 1000 * SECONDS
    ):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        on_gpu()
        end.record()
        end.synchronize()
        milliseconds.append(xp.cuda.get_elapsed_time(start, end))
    seconds, expected = _timed(on_host)
    if seconds < 1:  # the first call of a long one is warm enough
        seconds, expected = _timed(on_host)
    return Cost(
        case,
        name,
        statistics.median(milliseconds),
        1000 * seconds,
        peak / 1e6,
        _agreement(found[0], _parts(expected)[0]),
        _agreement(found[-1], _parts(expected)[-1]),
        floor,
    )


def _parts(result: Any) -> list[Any]:
    """A result's arrays: a head's labels and its winning scores if it has them, or the one of an
    operation."""
    if isinstance(result, kernels.Assignment):
        return [part for part in (result.labels, result.confidence) if part is not None]
    return [result]


def _timed(task: Call) -> tuple[float, Any]:
    began = time.perf_counter()
    found = task()
    return time.perf_counter() - began, found


def _agreement(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return 0.0
    if expected.dtype.kind in "iu":
        return float((found == expected).mean())
    largest = float(np.abs(expected).max()) or 1.0
    return float((np.abs(found - expected) <= 1e-3 * largest).mean())


def _tasks(name: str, xp: ModuleType) -> list[tuple[str, Call]]:
    """What is timed of a case, in the order in which a picture needs it."""
    if name == "unnamed":
        return _unnamed(CASES["named"], xp)
    return _named(CASES[name], xp, whole=name == "large")


def _device(case: Workload, xp: ModuleType) -> tuple[list[Grid], list[Any]]:
    features, logits = inputs(case)
    return [Grid(xp.asarray(level)) for level in features], [xp.asarray(layer) for layer in logits]


def _named(case: Workload, xp: ModuleType, whole: bool) -> list[tuple[str, Call]]:
    grids, logits = _device(case, xp)
    owner = np.arange(case.classes)
    image = np.random.default_rng(1).integers(0, 256, (*case.size, 3), dtype=np.uint8)
    rows, columns = kernels.edge_grid(grids, case.size)
    small = image[:: case.size[0] // rows, :: case.size[1] // columns].transpose(2, 0, 1) / 255
    guide = kernels.Guide(xp.asarray(image), xp.asarray(small.astype(np.float32)))

    def maps() -> Any:
        return kernels.class_maps(logits, owner, case.classes)

    def head(mode: kernels.Mode) -> Any:
        norms = kernels.pixel_norms(grids, case.size)
        averages = kernels.prototypes(grids, Grid(maps()), case.size, mode, norms)
        return kernels.assign(kernels.score_maps(grids, averages, mode), case.size, norms)

    def refined() -> Any:
        weights = Grid(maps())
        scores = kernels.score_maps(grids, kernels.prototypes(grids, weights, case.size))
        fine = kernels.fine_scores(scores, grids, small.shape[1:], weights, 0.35)
        return kernels.assign_along_edges(fine, guide)

    def spread() -> Any:
        weights = Grid(maps())
        scores = kernels.score_maps(grids, kernels.prototypes(grids, weights, case.size))
        fine = kernels.fine_scores(scores, grids, small.shape[1:], weights, 0.35)
        return kernels.assign([Grid(kernels.pamr(fine, guide.small))], case.size)

    heads: list[tuple[str, Call]] = [
        ("maskdiffusion, paper", lambda: head("paper")),
        ("maskdiffusion, released", lambda: head("released")),
        ("maskdiffusion, guided", refined),
        ("maskdiffusion, pamr", spread),
    ]
    if whole:
        return heads
    weights, norms = Grid(maps()), kernels.pixel_norms(grids, case.size)
    averages = kernels.prototypes(grids, weights, case.size)
    scores = kernels.score_maps(grids, averages)
    fine = kernels.fine_scores(scores, grids, small.shape[1:], weights, 0.35)
    chances = [xp.exp(layer) / xp.exp(layer).sum(axis=1, keepdims=True) for layer in logits]
    return [
        ("class maps, exp", maps),
        (
            "class maps, softmax",
            lambda: kernels.class_maps(chances, owner, case.classes, "softmax"),
        ),
        ("pixel norms", lambda: kernels.pixel_norms(grids, case.size)),
        ("prototypes, paper", lambda: kernels.prototypes(grids, weights, case.size)[0]),
        (
            "prototypes, released",
            lambda: kernels.prototypes(grids, weights, case.size, "released", norms)[0],
        ),
        ("score maps", lambda: kernels.score_maps(grids, averages)[0].values),
        ("labels and confidences", lambda: kernels.assign(scores, case.size, norms)),
        ("labels along edges", lambda: kernels.assign_along_edges(fine, guide)),
        ("PAMR", lambda: kernels.pamr(fine, guide.small)),
        *heads,
    ]


def _unnamed(case: Workload, xp: ModuleType) -> list[tuple[str, Call]]:
    grids, _ = _device(case, xp)
    return [
        ("spectral, k = 8", lambda: kernels.cluster(grids, 8)[0]),
        ("spectral, k found", lambda: kernels.cluster(grids, "auto")[0]),
        ("spectral, power 8, k = 8", lambda: kernels.cluster(grids, 8, size=None, power=8.0)[0]),
        ("k-means, k = 8", lambda: kernels.cluster(grids, 8, "kmeans")[0]),
    ]
