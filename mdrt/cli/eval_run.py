"""One evaluation from the command line: what it reads, how it goes on, what it reports."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmarks.accuracy.datasets import FOLDER, Dataset, open_dataset
from ..benchmarks.accuracy.evaluate import Evaluation, shard
from ..benchmarks.accuracy.ledger import NOT_SAID, told
from ..benchmarks.accuracy.report import ScoreRow, as_plain, draw, markdown, notes, row
from ..benchmarks.accuracy.settings import Entry
from ..benchmarks.accuracy.store import RESULTS, Store
from ..benchmarks.accuracy.sweep import SweepTable
from ..runtime.disk.atomic import recover, write_atomically
from ..runtime.errors import DatasetError
from ..runtime.segmenter import Segmenter
from .progress import needs_ascii, progress_bar, say, tell_bars
from .tables import print_whole


class EvaluationRun:
    """One evaluation under way: the data set, the loaded bundle, where results go."""

    def __init__(
        self,
        dataset: str,
        root: Path | None,
        split: str,
        listed: Path | None,
        train_root: Path | None,
        train_limit: int,
        engine: Path | None,
        provider: str | None,
        limit: int | None,
        part: str | None,
        boundary: bool,
        on_error: Literal["skip", "fail"],
        chosen_on: str | None,
        out: Path,
        as_json: bool,
    ) -> None:
        import_module("scipy.optimize")  # what it ends with is missed before the work
        self.dataset = open_dataset(dataset, root, split, listed)
        self.indices = shard(len(self.dataset), part, limit)
        if missing := self.dataset.missing:
            say(
                Console(stderr=True),
                "warning",
                f"{len(missing)} of {len(self.dataset)} pictures have no mask, as {missing[0]}",
            )
        self.images = {self.dataset.ids[index] for index in self.indices}
        self.train_root = train_root if dataset == FOLDER else train_root or root
        self.train_limit = train_limit
        self.segmenter = Segmenter(engine, provider=provider)
        self.boundary, self.on_error, self.out, self.as_json = boundary, on_error, out, as_json
        self.chosen_on = chosen_on or NOT_SAID
        manifest = self.segmenter.manifest
        out.mkdir(parents=True, exist_ok=True)
        recover(out)
        self.store = Store(
            out / RESULTS,
            {
                "dataset": dataset,
                "split": split,
                "classes": [list(names) for names in self.dataset.classes],
                "root": _place(root),
                "model": manifest.model_id,
                "vocabulary": len(manifest.classes) or None,
                "bundle": manifest.sha256,
                "features": [output.stride for output in manifest.features],
                "attention": list(dict.fromkeys(layer.stride for layer in manifest.attention)),
                "backend": self.segmenter.network.backend.name,
                "operators": self.segmenter.network.backend.operators,
            },
        )

    def run(self, entries: Sequence[Entry]) -> None:
        """Score what is not scored yet."""
        train = None
        if any(entry.setting.fitted for entry in entries):
            train = self._train()
            self.store.bind({"train_root": _place(self.train_root)})
        if any(entry.setting.options.threshold for entry in entries):
            self.store.bind({"chosen_on": self.chosen_on})
        evaluation = Evaluation(
            self.dataset,
            self.segmenter,
            entries,
            self.store,
            train,
            self.boundary,
            self.on_error,
        )
        console, start = Console(stderr=True), time.perf_counter()
        with progress_bar(console) as bars:
            evaluation.run(self.indices, tell_bars(bars))
        spent = evaluation.spent
        if spent.pictures:
            console.print(
                f"{spent.pictures} pictures in {time.perf_counter() - start:.1f} s; a picture "
                f"{spent.looking / spent.pictures:.3f} s in the networks and heads, and beside "
                f"them {spent.scoring / spent.pictures:.4f} s of scoring",
                highlight=False,
                soft_wrap=True,
            )
        problems = self.store.problems(self.images)
        for message in list(problems.values())[:5]:
            say(console, "skipped", message)
        if len(problems) > 5:
            say(console, "skipped", f"{len(problems)} pictures in all; report.json names them")

    def show(self, found: Sequence[SweepTable]) -> None:
        """Write the reports of the pictures asked for, and print one."""
        show(self.store, found, self.out, self.as_json, self.images)

    def _train(self) -> Dataset:
        """The first pictures of the training split.

        Raises:
            DatasetError: it is not there, has other classes, or is that of a folder and was not
                given.
        """
        if self.dataset.name == FOLDER and self.train_root is None:
            raise DatasetError(
                "prototypes-gt learns from pictures that are not scored, and a folder has no "
                "training split; give --train-root, another folder of the same classes"
            )
        train = open_dataset(self.dataset.name, self.train_root, "train")
        if list(train.classes) != list(self.dataset.classes):
            raise DatasetError(f"--train-root {self.train_root} has other classes than --root")
        return _First(train, self.train_limit)


def _place(root: Path | None) -> str | None:
    return None if root is None else str(root.resolve())


class _First:
    """The first pictures of a data set."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.name, self.classes, self.load = dataset.name, dataset.classes, dataset.load
        self.ids = list(dataset.ids)[:count]
        self.missing = dataset.missing

    def __len__(self) -> int:
        return len(self.ids)


def show(
    store: Store,
    found: Sequence[SweepTable],
    out: Path,
    as_json: bool,
    images: Collection[str] | None = None,
) -> None:
    """Write the reports of every picture, or of `images`, and print one.

    Raises:
        DatasetError: there is nothing to report.
    """
    pages, printed = [], []
    every: dict[str, ScoreRow] = {}
    for table in found:
        pairs = [(label, row(store, entry, images)) for label, entry in table.rows]
        rows = [r for _, r in pairs if r is not None]
        labels = [label for label, r in pairs if r is not None]
        if not rows:
            continue
        every |= {r.entry.key: r for r in rows}
        pages.append(f"## {table.title}\n\n{markdown(rows, labels)}")
        printed.append((table.title, rows, labels))
        if table.id:
            name = f"{table.id}.png"
            write_atomically(out / name, partial(draw, table.title, labels, rows))
            pages[-1] += f"\n![{table.title}]({name})\n"
    if not every:
        raise DatasetError("no picture was scored; see the messages above")
    values = as_plain(store, list(every.values()), images)
    head = (
        f"# {store.meta['dataset']}, {store.meta['split']}\n\nModel {store.meta['model']}, on "
        f"{store.meta['backend']}; mIoU in per cent, 95 % bootstrap intervals over the pictures. "
        f"Skipped pictures: {len(values['problems'])}.\n\n"
    )
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_atomically(out / "report.json", lambda file: file.write(text.encode()))
    page = head + "\n".join(pages)
    write_atomically(out / "report.md", lambda file: file.write(page.encode()))
    if as_json:
        click.echo(json.dumps(values, indent=2, ensure_ascii=needs_ascii()))
        return
    console = Console()
    print_whole(console, *(table for part in printed for table in score_tables(*part)))
    wrote = f"wrote {out / 'report.md'}, {out / 'report.json'}"
    console.print(wrote, highlight=False, soft_wrap=True)


def score_tables(title: str, rows: Sequence[ScoreRow], labels: Sequence[str]) -> Iterator[Table]:
    """A table for each protocol and number of pictures: figures of two do not compare."""
    found: dict[tuple[str, int], list[tuple[str, ScoreRow]]] = {}
    for label, r in zip(labels, rows, strict=True):
        found.setdefault((r.entry.protocol, r.images), []).append((label, r))
    for (protocol, images), part in found.items():
        edges = any(r.boundary is not None for _, r in part)
        paper = any(r.compared for _, r in part)
        table = Table(title=f"{title}: protocol {protocol}, {images} picture{'s' * (images != 1)}")
        table.add_column("head: setting")
        names = ["mIoU", "95 %", "accuracy", *["boundary IoU"] * edges, *["the paper"] * paper]
        for name in names:
            table.add_column(name, justify="right")
        for label, r in part:
            cells = [f"{r.miou:.1f}", f"{r.low:.1f}–{r.high:.1f}", f"{r.accuracy:.1f}"]
            if edges:
                cells.append("" if r.boundary is None else f"{r.boundary:.1f}")
            if paper:
                cells.append("" if r.compared is None else f"{r.compared.miou}")
            table.add_row(Text(f"{r.entry.setting.head}: {label}"), *cells)
        rows_of_it = [r for _, r in part]
        table.caption = "\n".join([*told([r.ledger for r in rows_of_it]), *notes(rows_of_it)])
        yield table
