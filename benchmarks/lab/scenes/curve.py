"""The curve of a training run, from the log `make model` keeps: how far it is, what it learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO, TypedDict

import click

from ....runtime.disk.atomic import write_atomically
from ....runtime.errors import MdrtError


class Losses(TypedDict):
    """Mean square errors of v on the same 64 pictures, averaged weights."""

    told: float
    """With their captions."""
    untold: float
    """With empty ones."""


def read_losses(log: Path) -> dict[int, Losses]:
    """Losses by the steps done; what a resumed run did again counts as it did it last.

    Raises:
        MdrtError: the file is no training log, or has no losses yet.
    """
    losses: dict[int, Losses] = {}
    for number, line in enumerate(log.read_text(errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            if "told" in row:
                losses[row["step"] + 1] = {"told": row["told"], "untold": row["untold"]}
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise MdrtError(
                f"{log}, line {number}: expected a row of a training log, got {line[:40]!r}"
            ) from error
    if not losses:
        raise MdrtError(f"{log}: no losses yet; training writes the first after 250 steps")
    return dict(sorted(losses.items()))


def draw(losses: dict[int, Losses], file: BinaryIO) -> None:
    """Both losses against the step, and the distance between them: what captions are worth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, told = list(losses), [found["told"] for found in losses.values()]
    untold = [found["untold"] for found in losses.values()]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    left.plot(steps, untold, color="#f58518", label="without the caption")
    left.plot(steps, told, color="#4c78a8", label="with it")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:.2f}")
    left.yaxis.set_minor_formatter("{x:.2f}")
    left.set_ylabel("loss")
    left.legend(frameon=False)
    gains = [without - having for without, having in zip(untold, told, strict=True)]
    right.plot(steps, gains, color="#54a24b")
    right.axhline(0, color="black", linewidth=0.5)
    right.set_ylabel("what the caption is worth")
    for panel in (left, right):
        panel.set_xlabel("step")
        panel.locator_params(axis="x", nbins=5)
        panel.grid(alpha=0.3, which="both")
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


@click.command()
@click.argument(
    "log",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("work/scenes/log.jsonl"),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("curve.png"),
    show_default=True,
)
def main(log: Path, out: Path) -> None:
    """Draw the losses of LOG, a training run's: by default the one of `make model`, done or not."""
    losses = read_losses(log)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: draw(losses, file))
    step, last = list(losses.items())[-1]
    click.echo(
        f"wrote {out}: step {step}, loss {last['told']:.4f} with the caption, "
        f"{last['untold']:.4f} without"
    )
