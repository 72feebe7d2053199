"""How time and memory grow with classes, picture size and the number of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from .latency import Report, contend, machine, summary, versions
from .task import NETWORK, Task, names

AXES: Final[Mapping[str, str]] = {
    "classes": "classes",
    "size": "picture's side in pixels",
    "images": "pictures in one process",
}
"""What is varied, and how its axis is labelled."""


def grow(
    task: Task, points: Mapping[str, Sequence[int]], say: Callable[[str], None] = lambda line: None
) -> Report:
    """Vary one thing at a time from `task`, every point in a fresh process.

    Args:
        task: the middle of every axis.
        points: values of each key of `AXES`.
        say: told what runs.

    Returns:
        A plain dict: machine, versions, task, and for every axis a list of points with medians a
        stage, seconds of the networks and of everything after them, and peak bytes. Where a point
        is one picture, it is the first of its process, with the weights in the page cache.
    """
    axes: dict[str, list[Report]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for axis, values in points.items():
            axes[axis] = []
            for value in values:
                say(f"{value} {AXES[axis]}")
                varied, pictures = task, 1
                if axis == "images":
                    pictures = value
                else:
                    changed: Any = names(value) if axis == "classes" else value
                    varied = replace(task, **{axis: changed})
                found = summary(contend(varied, "mdrt", Path(scratch), pictures, warmup=0))
                axes[axis].append({"value": value} | _split(found))
    return {"task": task.to_dict(), "machine": machine(), "versions": versions(), "axes": axes}


def _split(found: Report) -> Report:
    """A point's seconds, divided into networks and what comes after them."""
    stages = found["stages_s"]
    network = sum(stages.get(stage, 0.0) for stage in NETWORK)
    after = sum(seconds for stage, seconds in stages.items() if stage not in NETWORK)
    return {
        "stages_s": stages,
        "network_s": network,
        "after_s": after,
        "after_share": after / (network + after),
        "peak_bytes": found["peak_bytes"],
    }


def draw_growth(report: Report, file: BinaryIO) -> None:
    """Seconds above, memory below, a column an axis; a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = report["axes"]
    figure, grid = pyplot.subplots(
        2, len(axes), figsize=(4 * len(axes), 5.6), sharex="col", sharey="row", squeeze=False
    )
    for column, (axis, found) in enumerate(axes.items()):
        values = [point["value"] for point in found]
        above, below = grid[:, column]
        for key, label, colour in (
            ("network_s", "networks", "#f58518"),
            ("after_s", "everything after them", "#4c78a8"),
        ):
            above.plot(values, [point[key] for point in found], "o-", label=label, color=colour)
        above.set_xscale("log", base=2)
        above.set_yscale("log")
        below.plot(values, [point["peak_bytes"] / 1e9 for point in found], "o-", color="#54a24b")
        below.set_xticks(values, [str(value) for value in values])
        below.minorticks_off()
        below.set_xlabel(AXES[axis])
        for panel in (above, below):
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
    most = max(point["peak_bytes"] for found in axes.values() for point in found)
    grid[1, 0].set_ylim(0, 1.1 * most / 1e9)
    grid[0, 0].set_ylabel("seconds a picture")
    grid[1, 0].set_ylabel("peak memory, GB")
    grid[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)
