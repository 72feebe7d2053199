"""`mdrt eval`: accuracy on a user's own copy of the data, with the protocol beside every figure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..benchmarks.accuracy.datasets import FOLDER, NAMES, TREES, Dataset, open_dataset
from ..benchmarks.accuracy.evaluate import DEFAULT_PROTOCOLS, Entry, Evaluation, shard
from ..benchmarks.accuracy.methods import METHODS, Setting
from ..benchmarks.accuracy.protocols import PROTOCOLS
from ..benchmarks.accuracy.report import Row, as_json, describe, draw, markdown, of_paper, row
from ..benchmarks.accuracy.store import Store
from ..benchmarks.accuracy.sweep import TIMESTEPS, Table, tables
from ..runtime.bundle.contract import MODES, MOST_SEGMENTS, PAPER_TIMESTEP, POOLINGS
from ..runtime.disk.atomic import write_atomically
from ..runtime.errors import DatasetError, MdrtError
from ..runtime.segmenter import Segmenter
from .pictures import progress_bar, say

RESULTS = "results.sqlite"

_Command = Callable[..., Any]


def _strides(_context: Any, _option: Any, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(number) for number in text.split(",")}, reverse=True))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers, as 16,32") from None


def _common(command: _Command) -> _Command:
    """The options of `run` and `sweep` alike."""
    options = [
        click.argument("dataset", type=click.Choice(NAMES), metavar="DATASET"),
        click.option("--root", type=click.Path(path_type=Path), help="The folder it lies in."),
        click.option("--split", default="val", show_default=True, help="val or train."),
        click.option(
            "--list",
            "listed",
            type=click.Path(path_type=Path),
            help="A text file of ids, a line each, to restrict it to.",
        ),
        click.option(
            "--train-root",
            type=click.Path(path_type=Path),
            help="Where the training split of prototypes-gt lies.  [default: --root; of a folder "
            "there is none]",
        ),
        click.option(
            "--train-limit",
            type=click.IntRange(min=1),
            default=200,
            show_default=True,
            help="Pictures of the training split that prototypes-gt learns from.",
        ),
        click.option(
            "-e",
            "--engine",
            type=click.Path(path_type=Path),
            help="A bundle, its unet.onnx or unet.plan.  [default: the embedded model]",
        ),
        click.option("--provider", help="ONNX Runtime's, as for `mdrt segment`."),
        click.option("--limit", type=click.IntRange(min=1), help="The first pictures only."),
        click.option("--shard", "part", metavar="I/N", help="Every N-th picture from the I-th."),
        click.option(
            "--boundary", is_flag=True, help="Boundary IoU of named methods too; takes its time."
        ),
        click.option(
            "--on-error",
            type=click.Choice(["skip", "fail"]),
            default="skip",
            show_default=True,
            help="A picture or mask that cannot be read is noted and skipped, or ends it all.",
        ),
        click.option(
            "-o",
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("eval"),
            show_default=True,
            help="Folder for results.sqlite, report.md and report.json; a rerun continues there.",
        ),
        click.option("--json", "to_json", is_flag=True, help="Print JSON instead of tables."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group("eval")
def eval_command() -> None:
    """Measure accuracy on a data set, as the paper does.

    \b
    mdrt eval run scenes --method maskdiffusion --method attention
    mdrt eval run cityscapes19 --root ~/data/cityscapes -e sd15 --method maskdiffusion
    mdrt eval sweep scenes --limit 100
    mdrt eval claims eval --out docs
    mdrt eval merge whole shard1 shard2
    mdrt eval list
    """


@eval_command.command("run")
@_common
@click.option(
    "--method",
    "methods",
    type=click.Choice(list(METHODS)),
    multiple=True,
    default=("maskdiffusion",),
    show_default=True,
    help="May be repeated; `mdrt eval list` says what each is.",
)
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice(list(PROTOCOLS)),
    multiple=True,
    help="May be repeated.  [default: miou, and hungarian-image for unnamed segments]",
)
@click.option("--mode", type=click.Choice(MODES), help="[default: what the bundle recommends]")
@click.option("--pooling", type=click.Choice(POOLINGS), help="[default: the same]")
@click.option("--timestep", type=int, help="Index into ᾱ.  [default: the same]")
@click.option(
    "--presence",
    type=click.FloatRange(0, 1, max_open=True),
    help="Of maskdiffusion, as for `mdrt segment`.  [default: the same]",
)
@click.option(
    "--sharpness",
    type=click.FloatRange(0, min_open=True),
    help="Of maskdiffusion and unsupervised, as for `mdrt segment`.  [default: the same]",
)
@click.option(
    "--attention",
    type=click.FloatRange(0, 1),
    help="Of maskdiffusion, as for `mdrt segment`.  [default: the same]",
)
@click.option(
    "--refine/--no-refine",
    default=None,
    help="Of all but diffseg, as for `mdrt segment`.  [default: the same]",
)
@click.option("--feature-strides", callback=_strides, help="Of the bundle's, as 16,32.")
@click.option("--attention-strides", callback=_strides, help="Of the bundle's, as 32,64.")
@click.option("--dynamic-prompts", is_flag=True, help="Only the classes present in the prompt.")
@click.option(
    "--segments",
    default="present",
    show_default=True,
    metavar="present|auto|K",
    help="How many unnamed segments: as many as classes are present, found, or a number.",
)
@click.option(
    "--kl-threshold",
    type=click.FloatRange(min=0),
    default=1.1,
    show_default=True,
    help="Of diffseg: 1.1 for COCO-Stuff, 0.9 for Cityscapes as published.",
)
def run_command(
    methods: tuple[str, ...],
    protocols: tuple[str, ...],
    mode: Literal["paper", "released"] | None,
    pooling: Literal["exp", "softmax", "logit"] | None,
    timestep: int | None,
    presence: float | None,
    sharpness: float | None,
    attention: float | None,
    refine: bool | None,
    feature_strides: tuple[int, ...] | None,
    attention_strides: tuple[int, ...] | None,
    dynamic_prompts: bool,
    segments: str,
    kl_threshold: float,
    **common: Any,
) -> None:
    """Score methods on DATASET; a rerun continues where the last one stopped."""
    from ..runtime.segmenter import Options

    job = _Job(**common)
    count = _segments(segments)
    entries = []
    for method in dict.fromkeys(methods):
        kind = METHODS[method].kind
        at = METHODS[method].timestep if timestep is None else timestep
        options = Options(
            mode,
            pooling,
            at,
            presence=presence,
            sharpness=sharpness,
            attention=attention,
            refine=refine,
        )
        setting = replace(
            Setting.of(method, job.segmenter.settle(options, kind == "named")),
            feature_strides=job.known(feature_strides, "features"),
            attention_strides=job.known(attention_strides, "attention"),
            dynamic=dynamic_prompts,
            segments=count,
            train=job.train_limit if METHODS[method].fitted else 0,
            kl_threshold=kl_threshold,
        )
        for protocol in dict.fromkeys(protocols or [DEFAULT_PROTOCOLS[kind]]):
            if kind == "segments" and PROTOCOLS[protocol].matching == "none":
                raise click.UsageError(
                    f"--protocol {protocol} takes labels as classes, and {method} gives segments; "
                    f"choose of {', '.join(p for p in PROTOCOLS if p.startswith('hungarian'))}"
                )
            entries.append(Entry(setting, protocol))
    job.run(entries)
    job.show([Table("", f"{job.dataset.name}", tuple((_label(e), e) for e in entries))])


@eval_command.command("sweep")
@_common
@click.option(
    "--tables",
    "wanted",
    default="features,modes,3,4,5,6,7",
    show_default=True,
    help="Which tables: features, modes, or the paper's 3 to 7.",
)
@click.option(
    "--timestep",
    type=int,
    default=PAPER_TIMESTEP,
    show_default=True,
    help="Of the tables that do not vary it.",
)
@click.option(
    "--timesteps",
    default=",".join(map(str, TIMESTEPS)),
    show_default=True,
    help="Of Table 4, indices into ᾱ.",
)
def sweep_command(wanted: str, timestep: int, timesteps: str, **common: Any) -> None:
    """The paper's ablations on DATASET as one job, one pass of the networks a picture and timestep.

    Killed at any moment, it goes on where it was, and gives the same figures.
    """
    job = _Job(**common)
    try:
        steps = [int(text) for text in timesteps.split(",")]
    except ValueError:
        raise click.UsageError(f"--timesteps {timesteps} is no list of numbers") from None
    known = len(job.segmenter.manifest.alphas_cumprod)
    if wrong := [t for t in [timestep, *steps] if not 0 <= t < known]:
        raise click.UsageError(f"timestep {wrong[0]} is outside 0 to {known - 1}")
    manifest, train = job.segmenter.manifest, job.train_limit
    every = {table.id: table for table in tables(manifest, timestep, train, steps)}
    chosen = [text.strip() for text in wanted.split(",")]
    if unknown := [name for name in chosen if name not in every]:
        raise click.UsageError(f"--tables {unknown[0]}: choose of {', '.join(every)}")
    picked = [every[name] for name in chosen]
    job.run(list(dict.fromkeys(entry for table in picked for _, entry in table.rows)))
    job.show(picked)


@eval_command.command("claims")
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-e",
    "--engine",
    type=click.Path(path_type=Path),
    help="The bundle of the sweep.  [default: the embedded model]",
)
@click.option(
    "--train-limit",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="As the sweep's.",
)
@click.option(
    "--scenes",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Drawn in every figure.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs"),
    show_default=True,
    help="Folder for claims.md and claims/*.png.",
)
def claims_command(
    results: Path, engine: Path | None, train_limit: int, scenes: int, out: Path
) -> None:
    """Which of the paper's claims a sweep over the scenes bears out: a page, a figure a claim.

    RESULTS is the --out folder of `mdrt eval sweep scenes`.
    """
    from ..benchmarks.lab.claims import write

    store = Store(results / RESULTS)
    if store.meta["dataset"] != "scenes":
        raise DatasetError(f"{results} holds results on {store.meta['dataset']}, expected scenes")
    segmenter = Segmenter(engine)
    if segmenter.manifest.sha256 != store.meta["bundle"]:
        raise MdrtError(f"{results} was made with another bundle; give that one with --engine")
    page = write(
        store,
        segmenter.network,
        tables(segmenter.manifest, PAPER_TIMESTEP, train_limit),
        out,
        scenes,
    )
    click.echo(f"wrote {page} and {len(list((out / 'claims').glob('*.png')))} figures")


@eval_command.command("merge")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "to_json", is_flag=True, help="Print JSON instead of a table.")
def merge_command(out: Path, shards: tuple[Path, ...], to_json: bool) -> None:
    """Put the results of SHARDS, folders that `run` wrote, together in OUT: exact."""
    stores = [Store(path / RESULTS if path.is_dir() else path) for path in shards]
    out.mkdir(parents=True, exist_ok=True)
    meta = stores[0].meta
    whole = Store(out / RESULTS, meta)
    for store in stores:
        whole.merge(store)
    entries = [Entry.from_key(key) for key in whole.settings()]
    _show(whole, [Table("", meta["dataset"], tuple((_label(e), e) for e in entries))], out, to_json)


@eval_command.command("list")
def list_command() -> None:
    """The data sets with their layouts, the methods, the protocols."""
    layouts = {name: tree.layout("val") for name, tree in TREES.items()}
    layouts |= {
        "scenes": "made from seeds; no --root",
        "folder": "images/, masks/ (value = line of classes.txt, 255 void), classes.txt",
    }
    console = Console()
    for title, rows in {
        "data sets": {name: layouts[name] for name in NAMES},
        "methods": {name: method.help for name, method in METHODS.items()},
        "protocols": {protocol.id: protocol.help for protocol in PROTOCOLS.values()},
    }.items():
        table = RichTable(title=title, title_justify="left", show_header=False)
        for name, text in rows.items():
            table.add_row(Text(name), Text(text))
        console.print(table)


class _Job:
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
        out: Path,
        to_json: bool,
    ) -> None:
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
        self.boundary, self.on_error, self.out, self.to_json = boundary, on_error, out, to_json
        manifest = self.segmenter.manifest
        out.mkdir(parents=True, exist_ok=True)
        self.store = Store(
            out / RESULTS,
            {
                "dataset": dataset,
                "split": split,
                "classes": [list(names) for names in self.dataset.classes],
                "root": _place(root),
                "model": manifest.model_id,
                "bundle": manifest.sha256,
                "features": [output.stride for output in manifest.features],
                "attention": list(dict.fromkeys(layer.stride for layer in manifest.attention)),
                "backend": self.segmenter.network.backend.name,
                "winograd": self.segmenter.network.backend.winograd,
            },
        )

    def known(self, strides: tuple[int, ...] | None, kind: str) -> tuple[int, ...] | None:
        """Strides that the bundle has.

        Raises:
            MdrtError: it lacks one.
        """
        outputs: Any = getattr(self.segmenter.manifest, kind)
        there = list(dict.fromkeys(output.stride for output in outputs))
        if missing := [stride for stride in strides or () if stride not in there]:
            raise MdrtError(
                f"the bundle has no {kind} of stride {missing[0]}, only {there}; export it again "
                "with --feature-strides and --attention-strides"
            )
        return strides

    def run(self, entries: Sequence[Entry]) -> None:
        """Score what is not scored yet.

        Raises:
            MdrtError: a method reads what the bundle does not return.
        """
        reading = [e.setting.method for e in entries if METHODS[e.setting.method].self_attention]
        if reading and not self.segmenter.manifest.self_attention:
            raise MdrtError(
                f"{reading[0]} reads self-attention, and the bundle returns none; export it again "
                "with --self-attention-strides 64,32,16,8 (of which its UNet has some)"
            )
        train = None
        if any(METHODS[entry.setting.method].fitted for entry in entries):
            train = self.train()
            self.store.bind({"train_root": _place(self.train_root)})
        evaluation = Evaluation(
            self.dataset,
            self.segmenter.network,
            entries,
            self.store,
            train,
            self.boundary,
            self.on_error,
        )
        console, start = Console(stderr=True), time.perf_counter()
        with progress_bar(console) as progress:
            evaluation.run(self.indices, progress)
        clock = evaluation.clock
        if clock.pictures:
            console.print(
                f"{clock.pictures} pictures in {time.perf_counter() - start:.1f} s; a picture "
                f"{clock.looking / clock.pictures:.3f} s in the networks and methods, and beside "
                f"them {clock.scoring / clock.pictures:.4f} s of scoring",
                highlight=False,
            )
        problems = self.store.problems(self.images)
        for message in list(problems.values())[:5]:
            say(console, "skipped", message)
        if len(problems) > 5:
            say(console, "skipped", f"{len(problems)} pictures in all; report.json names them")

    def show(self, found: Sequence[Table]) -> None:
        """Write the reports of the pictures asked for, and print one."""
        _show(self.store, found, self.out, self.to_json, self.images)

    def train(self) -> Dataset:
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


def _label(entry: Entry) -> str:
    return describe(entry.setting)


def _segments(text: str) -> int | Literal["present", "auto"]:
    words: dict[str, Literal["present", "auto"]] = {"present": "present", "auto": "auto"}
    if text in words:
        return words[text]
    if not text.isdigit() or not 1 <= int(text) <= MOST_SEGMENTS:
        raise click.UsageError(
            f"--segments {text}: expected present, auto, or a number from 1 to {MOST_SEGMENTS}"
        )
    return int(text)


def _show(
    store: Store,
    found: Sequence[Table],
    out: Path,
    to_json: bool,
    images: Collection[str] | None = None,
) -> None:
    """Write the reports of every picture, or of `images`, and print one."""
    pages, printed = [], []
    every: dict[str, Row] = {}
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
    values = as_json(store, list(every.values()), images)
    head = (
        f"# {store.meta['dataset']}, {store.meta['split']}\n\nModel {store.meta['model']}, on "
        f"{store.meta['backend']}; mIoU in per cent, 95 % bootstrap intervals over the pictures. "
        f"Skipped pictures: {len(values['problems'])}.\n\n"
    )
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_atomically(out / "report.json", lambda file: file.write(text.encode()))
    page = head + "\n".join(pages)
    write_atomically(out / "report.md", lambda file: file.write(page.encode()))
    if to_json:
        click.echo(text)
        return
    console = Console()
    for title, rows, labels in printed:
        console.print(_rich(title, rows, labels))
    console.print(f"wrote {out / 'report.md'}, {out / 'report.json'}", highlight=False)


def _rich(title: str, rows: Sequence[Row], labels: Sequence[str]) -> RichTable:
    table = RichTable(title=title, title_justify="left")
    paper = any(r.paper for r in rows)
    names = ["method", "setting", "mIoU", "95 %", "accuracy", *["the paper"] * paper]
    for name in (*names, "protocol", "pictures"):
        table.add_column(name, justify="left" if name in ("method", "setting") else "right")
    for label, r in zip(labels, rows, strict=True):
        table.add_row(
            r.entry.setting.method,
            label,
            f"{r.miou:.1f}",
            f"{r.low:.1f}–{r.high:.1f}",
            f"{r.accuracy:.1f}",
            *[of_paper(r)] * paper,
            r.entry.protocol,
            f"{r.images}",
        )
    return table
