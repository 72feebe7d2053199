"""A race's report as a bar chart."""

from __future__ import annotations

from typing import Any, BinaryIO, Final

from .task import STAGES

Report = dict[str, Any]

_COLOURS: Final = {
    "vae": "#4c78a8", "unet": "#f58518", "decode": "#b279a2", "text": "#54a24b",
    "attention": "#e45756", "prototypes": "#72b7b2", "assign": "#eeca3b", "image": "#9d755d",
    "download": "#ff9da6", "output": "#bab0ac",
}  # fmt: skip


def draw_race(report: Report, file: BinaryIO) -> None:
    """Stacked bars, one a contender, a colour a stage; a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = report["contenders"]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(results) + 1.6))
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
    axes.set_xlabel(f"seconds a picture, {report['task']['size']}², warm medians")
    axes.set_xlim(right=max(left) * 1.12)
    axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def seconds(value: float) -> str:
    """Seconds with the digits that mean something."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
