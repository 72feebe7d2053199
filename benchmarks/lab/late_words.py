"""What words cost that come late: long lists on a look of their own, another list on the same."""

from __future__ import annotations

import itertools
import statistics
import string
import time
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ...cli.options import engine_option
from ...cli.tables import print_whole
from ...runtime.segmenter import Segmenter

COUNTS: Final = (19, 171, 847)
"""Names of Cityscapes, COCO-Stuff and the longest list of ADE20K."""


def names(segmenter: Segmenter, count: int) -> list[str]:
    """As many short names, those of the fewest tokens first."""
    letters = itertools.product(string.ascii_lowercase, repeat=3)
    every = ["".join(triple) for triple in itertools.islice(letters, 4 * count)]
    prompts = segmenter.network.words.encode(every).prompts
    tokens = np.bincount(prompts.owner, minlength=len(every))
    return [every[place] for place in np.argsort(tokens, kind="stable")[:count]]


@click.command()
@engine_option
@click.option("--rounds", type=click.IntRange(min=2), default=3, show_default=True)
def main(engine: Path | None, rounds: int) -> None:
    """Time `words=late` for more and more names, and for other names on the same look.

    The picture is noise, of the bundle's native size; lists are encoded before the clock starts.
    """
    segmenter = Segmenter(engine)
    side = segmenter.manifest.native_size
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    chosen = names(segmenter, max(COUNTS))
    seconds: dict[str, list[float]] = {}
    stages: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for count in COUNTS:
            prompts = len(segmenter.prepare(chosen[:count]).prompts.texts)
            segmenter.network.words.keys(segmenter.prepare(chosen[:count]))
            look = segmenter.look(image)
            what = f"{count} names, {prompts} prompts"
            lists = {what: chosen[:count]}
            if count == min(COUNTS):
                lists["as many others, same look"] = chosen[-count:]
            for row, words in lists.items():
                start = time.perf_counter()
                stages[row] = look.segment(words, words="late").timings
                seconds.setdefault(row, []).append(time.perf_counter() - start)
    title = (
        f"{segmenter.manifest.model_id}, {side}², words=late; medians of {rounds - 1} warm rounds"
    )
    table = Table("a list", "seconds", "to the first", "text", "attention", "assign", title=title)
    first = statistics.median(next(iter(seconds.values()))[1:])
    for row, found in seconds.items():
        warm = statistics.median(found[1:])
        parts = (f"{stages[row].get(name, 0):.3f}" for name in ("text", "attention", "assign"))
        table.add_row(row, f"{warm:.3f}", f"{warm / first:.3f}", *parts)
    print_whole(Console(), table)
