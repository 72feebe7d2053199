"""Time and memory of `mdrt.kernels` beside the naive computation.

Every side of every case runs in a process of its own: it builds its inputs, notes its memory,
then runs: ours once to warm up and then the measured repeats, the naive one once. Peak memory is
the largest resident size of the process (Linux) above what it held after imports and inputs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ...runtime.blas import one_thread

Measurement = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """Shapes of one segmentation after the network."""

    features: tuple[tuple[int, int, int], ...]
    attention: tuple[tuple[int, int], ...]
    classes: int
    size: tuple[int, int]
    heads: int = 8


RELEASED_GRID = (32, 32)  # of class maps in mode "released", whatever the picture's size
STABLE_DIFFUSION = ((2560, 8, 8), (1920, 16, 16), (960, 32, 32))
CASES = {
    "named": Workload(STABLE_DIFFUSION, (*[(16, 16)] * 5, (8, 8)), 19, (512, 512)),
    "long": Workload(STABLE_DIFFUSION, (*[(16, 16)] * 5, (8, 8)), 847, (512, 512)),
    "large": Workload(
        ((2560, 16, 32), (1920, 32, 64), (960, 64, 128)),
        (*[(32, 64)] * 5, (16, 32)),
        171,
        (1024, 2048),
    ),
    "eigen": Workload(STABLE_DIFFUSION, (), 16, (100, 100)),
    "maps": Workload(
        (), (*[(8, 8)], *[(16, 16)] * 5, *[(32, 32)] * 5, *[(64, 64)] * 5), 19, (64, 64)
    ),
    "cut 32": Workload(((1280, 32, 32),), (), 8, (32, 32)),
    "cut 64": Workload(((1280, 64, 64),), (), 8, (64, 64)),
}
# (case, side); the naive way would hold 44 GB of features in the large case, and takes half an hour
# in the long one
RUNS = [
    ("named", "kernels paper"),
    ("named", "naive paper"),
    ("named", "kernels released"),
    ("named", "naive released"),
    ("named", "kernels guided"),
    ("named", "kernels pamr"),
    ("long", "kernels paper"),
    ("long", "kernels released"),
    ("large", "kernels paper"),
    ("large", "kernels released"),
    ("large", "kernels guided"),
    ("large", "kernels pamr"),
    ("eigen", "kernels"),
    ("eigen", "naive"),
    ("maps", "kernels mdrt"),
    ("maps", "kernels diffsegmenter"),
    ("maps", "kernels faseg"),
    ("maps", "kernels iseg"),
    ("cut 32", "kernels ncut"),
    ("cut 32", "kernels autosc"),
    ("cut 32", "kernels multicut"),
    ("cut 64", "kernels ncut"),
    ("cut 64", "kernels autosc"),
    ("cut 64", "kernels multicut"),
]


def inputs(case: Workload) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Features with smooth structure and a common offset, as a network's are, and logits."""
    random = np.random.default_rng(0)
    features = []
    for channels, h, w in case.features:
        y, x = np.mgrid[0:h, 0:w] / [[[h]], [[w]]]
        waves = np.stack([np.cos(np.pi * (i * y + j * x)) for i in range(5) for j in range(5)])
        mixing = random.standard_normal((channels, 25))
        noise = random.standard_normal((channels, h, w))
        offset = random.standard_normal((channels, 1, 1))
        level = offset + 0.1 * np.einsum("cr,rhw->chw", mixing, waves) + 0.2 * noise
        features.append(level.astype(np.float32))
    logits = [
        random.standard_normal((case.heads, case.classes, *grid), dtype=np.float32)
        for grid in case.attention
    ]
    return features, logits


def kernels_task(case: Workload, mode: str) -> Callable[[], object]:
    """What `mdrt.kernels` does for the case: labels and confidences, eigenpairs, or segments."""
    from ... import kernels

    features, logits = inputs(case)
    if not features:
        return refined_task(case, mode, logits)
    grids = [kernels.Grid(level) for level in features]
    image = np.random.default_rng(1).integers(0, 256, (*case.size, 3), dtype=np.uint8)
    rows, columns = kernels.edge_grid(grids, case.size)
    small = image[:: case.size[0] // rows, :: case.size[1] // columns].transpose(2, 0, 1) / 255
    small = small.astype(np.float32)

    def named() -> object:
        chosen: kernels.Mode = "released" if mode == "released" else "paper"
        grid = RELEASED_GRID if mode == "released" else None
        maps = kernels.class_maps(logits, np.arange(case.classes), case.classes, grid=grid)
        norms = kernels.pixel_norms(grids, case.size)
        averages = kernels.prototypes(grids, kernels.Grid(maps), case.size, chosen, norms)
        scores = kernels.score_maps(grids, averages, chosen)
        if mode not in ("guided", "pamr"):
            return kernels.assign(scores, case.size, norms).labels
        fine = kernels.fine_scores(scores, grids, small.shape[1:], kernels.Grid(maps), 0.35)
        if mode == "guided":
            return kernels.assign_along_edges(fine, kernels.Guide(image, small)).labels
        return kernels.assign([kernels.Grid(kernels.pamr(fine, small))], case.size).labels

    def eigen() -> object:
        affinity = kernels.Affinity(grids, case.size)
        return kernels.spectral_embedding(affinity, case.classes)[0]

    cuts: dict[str, Callable[[], object]] = {
        "ncut": lambda: kernels.ncut(grids, case.classes)[0],
        "autosc": lambda: kernels.ncut(grids, case.classes, method="autosc")[0],
        "multicut": lambda: kernels.multicut(grids, case.classes)[0],
    }
    return cuts.get(mode, named if logits else eigen)


def refined_task(
    case: Workload, recipe: str, cross: list[NDArray[np.float32]]
) -> Callable[[], object]:
    """What head `refined` does with the taps of Stable Diffusion 1.x: class maps (K, 64, 64)."""
    from ...runtime.heads.refined import RECIPES, Found, RefinedOptions, present
    from ...runtime.look.taps import SelfAttention

    random = np.random.default_rng(2)
    strides = [512 // rows for rows, _ in case.attention]
    own: dict[int, list[SelfAttention]] = {}
    maps: dict[int, list[NDArray[np.float32]]] = {}
    for stride, (rows, columns), layer in zip(strides, case.attention, cross, strict=True):
        d = min(160, 5 * stride)
        pair = random.standard_normal((2, case.heads, rows * columns, d), dtype=np.float32)
        own.setdefault(stride, []).append(SelfAttention(stride, pair[0] / d**0.5, pair[1]))
        maps.setdefault(stride, []).append(np.exp(layer))
    chosen, options = RECIPES[recipe], RefinedOptions(recipe=recipe)  # type: ignore[arg-type]
    found = Found(maps, own, np.eye(case.classes, dtype=np.float32))
    shares = present(chosen.cross, maps)
    return lambda: chosen.make(found, shares, chosen.spreads, options)


def naive_task(case: Workload, mode: str) -> Callable[[], object]:
    """The same straight from the equations, in PyTorch."""
    import torch

    from .. import naive

    features, logits = ([torch.from_numpy(x) for x in arrays] for arrays in inputs(case))

    def named() -> object:
        grid = RELEASED_GRID if mode == "released" else None
        maps = naive.class_maps(logits, torch.arange(case.classes), case.classes, size=grid)
        averages = naive.prototypes(features, maps, case.size, mode)
        return naive.assign(features, averages, case.size, mode).numpy()

    def eigen() -> object:
        return naive.laplacian_eigs(naive.affinity(features, case.size), case.classes)[0].numpy()

    return named if logits else eigen


def measure(name: str, side: str, repeats: int) -> Measurement:
    """Run one side of one case in this process."""
    implementation, _, mode = side.partition(" ")
    task = (kernels_task if implementation == "kernels" else naive_task)(CASES[name], mode)
    _reset_peak()
    before = _memory("VmRSS")
    seconds = []
    with one_thread() if implementation == "kernels" else nullcontext():  # as mdrt has it
        for _ in range(1 + repeats):
            started = time.perf_counter()
            result = task()
            seconds.append(time.perf_counter() - started)
    return {
        "case": name,
        "side": side,
        "median_s": statistics.median(seconds[1:] or seconds),
        "min_s": min(seconds),
        "peak_mb": (_memory("VmHWM") - before) / 1e6,
        "checksum": float(np.asarray(result, np.float64).sum()),
    }


def run(
    repeats: int = 7,
    only: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Measurement:
    """Measure every side of every case, each in its own process; a plain dict of figures.

    A naive side runs once, cold: it takes up to a minute and gains nothing from being warm, since
    it returns its memory to the system every time. Where both sides ran, `speedup` and
    `memory_ratio` compare them.
    """
    rows = []
    for name, side in RUNS:
        if only not in (None, name):
            continue
        report(f"{name}: {side}")
        times = 0 if side.startswith("naive") else repeats
        command = [sys.executable, "-P", "-m", __name__, name, side, str(times)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=-1).stdout))
    naive = {(row["case"], row["side"]): row for row in rows}
    for row in rows:
        other = naive.get((row["case"], row["side"].replace("kernels", "naive")))
        if row["side"].startswith("kernels") and other is not None:
            row["speedup"] = other["median_s"] / row["median_s"]
            row["memory_ratio"] = other["peak_mb"] / max(row["peak_mb"], 0.1)
    return {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "cpu": platform.machine()},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "results": rows,
    }


def _memory(field: str) -> int:
    """A size in bytes from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _reset_peak() -> None:
    """Make VmHWM start from the present size (man 5 proc, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _print(figures: Measurement) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "side", "median", "peak memory", "speedup", "memory")
    for row in figures["results"]:
        table.add_row(
            row["case"],
            row["side"],
            f"{row['median_s'] * 1e3:,.1f} ms",
            f"{row['peak_mb']:,.0f} MB",
            f"{row['speedup']:,.0f}×" if "speedup" in row else "",
            f"{row['memory_ratio']:,.0f}× less" if "speedup" in row else "",
        )
    Console().print(table)


@click.command()
@click.option("--only", type=click.Choice(list(CASES)), help="One case.")
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True)
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Also write the figures here."
)
def main(only: str | None, repeats: int, path: Path | None) -> None:
    """Time and memory of what comes after the network, beside the naive computation."""
    if find_spec("torch") is None:
        raise click.ClickException(
            "the naive way needs torch; run `pip install '.[export]'` in mdrt's own folder"
        )
    figures = run(repeats, only, lambda line: click.echo(line, err=True))
    _print(figures)
    if path is not None:
        path.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":  # one side of one case, for `run`
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
