"""Reports as bar charts: a race, and what else was asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO, Final

from .task import STAGES

Report = dict[str, Any]

_COLOURS: Final = {
    "vae": "#4c78a8", "unet": "#f58518", "decode": "#b279a2", "text": "#54a24b",
    "attention": "#e45756", "segments": "#d67195", "prototypes": "#72b7b2", "assign": "#eeca3b",
    "image": "#9d755d", "download": "#ff9da6", "output": "#bab0ac",
}  # fmt: skip


def draw_race(report: Report, file: BinaryIO) -> None:
    """Stacked bars, a colour a stage: above one a contender, below one a question; a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    contenders, asked = report["contenders"], report["questions"]
    heights = [0.6 * len(results) + 0.8 for results in (contenders, asked)]
    figure, (race, questions) = pyplot.subplots(
        2, figsize=(9, sum(heights) + 1.4), height_ratios=heights
    )
    _bars(race, contenders)
    _bars(questions, asked)
    shown = {label: bars for axes in (race, questions) for bars, label in _legend(axes)}
    race.legend(
        shown.values(),
        shown.keys(),
        frameon=False,
        ncols=6,
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        fontsize="small",
    )
    race.set_xlabel(f"seconds a picture, {report['task']['size']}², warm medians")
    questions.set_xlabel("seconds that other questions take of mdrt")
    figure.tight_layout()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def _bars(axes: Any, results: Report) -> None:
    left = [0.0] * len(results)
    for stage in STAGES:
        values = [result["stages_s"].get(stage, 0.0) for result in results.values()]
        if any(values):
            axes.barh(list(results), values, left=left, label=stage, color=_COLOURS[stage])
            left = [a + b for a, b in zip(left, values, strict=True)]
    for row, (total, result) in enumerate(zip(left, results.values(), strict=True)):
        axes.text(total, row, f" {seconds(result['p50_s'])} s", va="center")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(right=max(left) * 1.12)


def _legend(axes: Any) -> Iterable[tuple[Any, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def seconds(value: float) -> str:
    """Seconds with the digits that mean something."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
