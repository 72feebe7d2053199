"""`mdrt eval`: accuracy on a user's own copy of the data, with the protocol beside every figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmarks.accuracy.compare import Contender
from ..benchmarks.accuracy.datasets import NAMES, TREES
from ..benchmarks.accuracy.ledger import check_alike
from ..benchmarks.accuracy.protocols import PROTOCOLS
from ..benchmarks.accuracy.settings import HEADS, Entry, PromptClasses, find_head, parse_for
from ..benchmarks.accuracy.store import RESULTS, Store
from ..benchmarks.accuracy.sweep import TIMESTEPS, SweepTable, tables
from .eval_asked import Asked, parse_head
from .eval_compare import bundle_folders, show_comparison
from .eval_run import EvaluationRun, show
from .groups import Command, experts, group, option
from .options import (
    COUNT,
    PATH,
    engine_option,
    json_option,
    out_option,
    provider_option,
    set_option,
)
from .tables import print_whole

GONE: Final[Mapping[str, str]] = {
    "--dynamic-prompts": "--prompt-classes present",
    "--method": "--head, as in --head kmeans; unsupervised is --head spectral",
    "--sharpness": "--set map_power=…, and of unnamed segments --set affinity_power=… with "
    "--set affinity=cells",
    **{
        f"--{name.replace('_', '-')}": f"--set {name}=…"
        for name in (
            "mode", "pooling", "timestep", "presence", "attention", "refine", "no_refine",
            "kl_threshold", "feature_strides", "attention_strides",
        )
    },
}  # fmt: skip


def _data(bundle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is evaluated: the data set, and the option that names a bundle or several."""

    def decorate(command: Any) -> Any:
        data = group(
            "Data",
            option("--root", type=PATH, help="The folder that DATASET lies in."),
            option("--limit", type=COUNT, help="The first pictures only."),
            bundle,
        )(command)
        return click.argument("dataset", type=click.Choice(NAMES), metavar="DATASET")(data)

    return decorate


def _how(command: Any) -> Any:
    """What is asked of every head."""
    options = (
        option(
            "--segments",
            default="present",
            show_default=True,
            metavar="present|auto|K",
            help="How many unnamed segments: as many as classes are present, found, or a number.",
        ),
        option(
            "--prompt-classes",
            type=click.Choice(get_args(PromptClasses)),
            default="all",
            show_default=True,
            help="Names in the prompt: all, those present by the ground truth, or those predicted "
            "by a first pass over all, no truth asked.",
        ),
        option(
            "--protocol",
            "protocols",
            multiple=True,
            type=click.Choice(list(PROTOCOLS)),
            metavar="ID",
            help="May be repeated; `mdrt eval list` says what each does.  [default: miou, and "
            "hungarian-image for unnamed segments]",
        ),
    )
    rare = option(
        "--prompt-presence",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Of --prompt-classes predicted: the share of the attention's cells that a name must "
        "win.  [default: 0.01]",
    )
    return group("How", *options)(experts(rare)(command))


def _results(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where results go, and what few ask for."""
    decorators = (
        group(
            "Results",
            out_option(
                "results.sqlite, report.md and report.json; a rerun continues there",
                default=Path("eval"),
                show_default=True,
            ),
            json_option,
        ),
        experts(
            option("--split", default="val", show_default=True, help="val or train."),
            option(
                "--list", "listed", type=PATH, help="A text file of ids, a line each, to score."
            ),
            option("--shard", "part", metavar="I/N", help="Every N-th picture from the I-th."),
            option(
                "--train-root",
                type=PATH,
                help="Where the training split of prototypes-gt lies.  [default: --root; of a "
                "folder there is none]",
            ),
            option(
                "--train-limit",
                type=COUNT,
                default=200,
                show_default=True,
                help="Pictures of the training split that prototypes-gt learns from.",
            ),
            option(
                "--boundary", is_flag=True, help="Boundary IoU of named heads too; takes its time."
            ),
            option(
                "--on-error",
                type=click.Choice(["skip", "fail"]),
                default="skip",
                show_default=True,
                help="A picture or mask that cannot be read is noted and skipped, or ends it all.",
            ),
            option(
                "--chosen-on",
                metavar="TEXT",
                help="What a threshold that is set was chosen on, for the ledger, as 'train'.  "
                "[default: not said]",
            ),
            provider_option,
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.group("eval")
def eval_command() -> None:
    """Measure accuracy on a data set, as the paper does.

    \b
    mdrt eval run scenes --head maskdiffusion --head attention
    mdrt eval run cityscapes19 --root ~/data/cityscapes -e sd15 --set timestep=50
    mdrt eval compare scenes --head attention --head maskdiffusion:map_power=3
    mdrt eval sweep scenes --limit 100
    mdrt eval merge whole shard1 shard2
    mdrt eval list
    """


@eval_command.command("run", cls=Command, extra="bench", gone=GONE)
@_data(engine_option)
@group(
    "How",
    option(
        "--head",
        "heads",
        multiple=True,
        metavar="NAME",
        default=("maskdiffusion",),
        show_default=True,
        help="May be repeated; `mdrt eval list` says what each is.",
    ),
    set_option,
)
@_how
@_results
def run_command(
    heads: tuple[str, ...],
    settings: Mapping[str, str],
    segments: str,
    prompt_classes: PromptClasses,
    prompt_presence: float | None,
    protocols: tuple[str, ...],
    **common: Any,
) -> None:
    """Score heads on DATASET; a rerun continues where the last one stopped.

    A setting is of every head that has it; what is not set is as the bundle recommends.
    """
    chosen = [find_head(name) for name in dict.fromkeys(heads)]
    given = parse_for(chosen, settings)
    asked = Asked.of(segments, prompt_classes, prompt_presence, protocols)
    run = EvaluationRun(**common)
    entries = asked.entries(run, [(head, given[head.name]) for head in chosen])
    run.run(entries)
    run.show([SweepTable.of(run.dataset.name, entries)])


@eval_command.command("compare", cls=Command, extra="bench")
@_data(
    option(
        "-e",
        "--engine",
        "engines",
        type=PATH,
        multiple=True,
        help="A bundle, as for `run`; may be repeated.  [default: the embedded model]",
    )
)
@group(
    "How",
    option(
        "--head",
        "heads",
        multiple=True,
        metavar="NAME[:SETTING=VALUE,…]",
        default=("maskdiffusion", "attention"),
        show_default=True,
        help="May be repeated; the first is what the others are compared with.",
    ),
)
@_how
@_results
def compare_command(
    heads: tuple[str, ...],
    engines: tuple[Path, ...],
    segments: str,
    prompt_classes: PromptClasses,
    prompt_presence: float | None,
    protocols: tuple[str, ...],
    out: Path,
    as_json: bool,
    **common: Any,
) -> None:
    """Several heads and bundles beside each other on DATASET: figures, differences to the first,
    published figures, seconds. A rerun continues where the last one stopped.

    What is not set is as each bundle recommends. One look at a picture serves all of its heads.
    """
    chosen = [parse_head(text) for text in dict.fromkeys(heads)]
    asked = Asked.of(segments, prompt_classes, prompt_presence, protocols)
    contenders, images = [], set()
    for folder, engine in bundle_folders(engines).items():
        run = EvaluationRun(engine=engine, out=out / folder, as_json=as_json, **common)
        entries = list(dict.fromkeys(asked.entries(run, chosen)))
        run.run(entries)
        run.segmenter.close()
        contenders += [Contender(folder, run.store, entry) for entry in entries]
        images |= run.images
    show_comparison(contenders, images, out, as_json)


@eval_command.command("sweep", cls=Command, extra="bench")
@_data(engine_option)
@group(
    "How",
    option(
        "--tables",
        "wanted",
        default="features,modes,3,4,5,6,7",
        show_default=True,
        help="Which tables: features, modes, or the paper's 3 to 7.",
    ),
    option(
        "--timestep",
        type=int,
        default=0,
        show_default=True,
        help="Of the tables that do not vary it.",
    ),
    option(
        "--timesteps",
        default=",".join(map(str, TIMESTEPS)),
        show_default=True,
        help="Of Table 4, indices into ᾱ.",
    ),
)
@_results
def sweep_command(wanted: str, timestep: int, timesteps: str, **common: Any) -> None:
    """The paper's ablations on DATASET as one job, one pass of the networks a picture and timestep.

    Killed at any moment, it goes on where it was, and gives the same figures.
    """
    import_module("matplotlib")  # before the work that ends with it
    try:
        steps = [int(text) for text in timesteps.split(",")]
    except ValueError:
        raise click.UsageError(f"--timesteps {timesteps} is no list of numbers") from None
    run = EvaluationRun(**common)
    for t in (timestep, *steps):
        run.segmenter.settle("maskdiffusion", timestep=t)
    every = {t.id: t for t in tables(run.segmenter.manifest, timestep, run.train_limit, steps)}
    chosen = [text.strip() for text in wanted.split(",")]
    if unknown := [name for name in chosen if name not in every]:
        raise click.UsageError(f"--tables {unknown[0]}: choose of {', '.join(every)}")
    picked = [every[name] for name in chosen]
    run.run(list(dict.fromkeys(entry for table in picked for _, entry in table.rows)))
    run.show(picked)


@eval_command.command("merge", cls=Command, extra="bench")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.argument("shards", nargs=-1, required=True, type=PATH)
@json_option
def merge_command(out: Path, shards: tuple[Path, ...], as_json: bool) -> None:
    """Put the results of SHARDS, folders that `run` wrote, together in OUT: exact."""
    stores = [Store(path / RESULTS if path.is_dir() else path) for path in shards]
    check_alike(stores)
    out.mkdir(parents=True, exist_ok=True)
    meta = stores[0].meta
    whole = Store(out / RESULTS, meta)
    for store in stores:
        whole.merge(store)
    entries = [Entry.from_key(key) for key in whole.settings()]
    show(whole, [SweepTable.of(meta["dataset"], entries)], out, as_json)


@eval_command.command("list", cls=Command)
def list_command() -> None:
    """The data sets with their layouts, the heads, the protocols."""
    layouts = {name: tree.layout("val") for name, tree in TREES.items()}
    layouts |= {
        "scenes": "made from seeds; no --root",
        "folder": "images/, masks/ (value = line of classes.txt, 255 void), classes.txt",
    }
    tables = []
    for title, rows in {
        "data sets": {name: layouts[name] for name in NAMES},
        "heads": {name: head.help for name, head in HEADS.items()},
        "protocols": {protocol.id: protocol.help for protocol in PROTOCOLS.values()},
    }.items():
        table = Table("", "", title=title, show_header=False)
        for name, text in rows.items():
            table.add_row(Text(name), Text(text))
        tables.append(table)
    print_whole(Console(), *tables)
