"""`mdrt bench serve`: a server under the load of many clients."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from .groups import Command, option
from .options import COUNT, WORKERS, engine_option, json_option
from .tables import print_whole


class _Counts(click.ParamType):  # type: ignore[type-arg]
    name = "N,N,…"

    def convert(self, value: object, param: object, ctx: object) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdigit() and 0 < int(part) <= 1024 for part in parts):
            self.fail(f"{value!r}; expected numbers from 1 to 1024, as in 1,8,64")
        return tuple(int(part) for part in parts)


@click.command("serve", cls=Command, extra="serve")
@engine_option
@option(
    "--clients",
    type=_Counts(),
    default="1,4,16,64",
    show_default=True,
    help="How many ask at once, in turn.",
)
@option(
    "--requests",
    type=COUNT,
    default=200,
    show_default=True,
    help="Pictures asked about with each.",
)
@option("--workers", type=WORKERS, default=1, show_default=True, help="Of the server.")
@option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Asked about; may be repeated.  [default: eight of noise, of the model's size]",
)
@json_option
def load_command(
    engine: Path | None,
    clients: tuple[int, ...],
    requests: int,
    workers: int,
    pictures: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Start a server on this machine, ask it by 1 to 64 clients, and tell how long they waited.

    \b
    mdrt bench serve
    mdrt bench serve --workers 2 --clients 1,8 --requests 50
    """
    from ..benchmarks.speed.load import measure, report, serving

    arguments = ["--workers", str(workers), *([] if engine is None else ["--engine", str(engine)])]
    files = [path.read_bytes() for path in pictures] or _noise(engine)
    loads = []
    with serving(arguments) as (url, process):
        measure(url, process.pid, files, 1, 2)  # connections and looks of a first time
        for count in clients:
            loads.append(measure(url, process.pid, files, count, requests))
    if as_json:
        click.echo(json.dumps(report(loads, arguments), indent=2))
    else:
        names = ("clients", "pictures a second", "p50", "p99", "sent away", "lost", "memory")
        table = Table(*names, title=f"mdrt serve {' '.join(arguments)}")
        for load in loads:
            table.add_row(
                str(load.clients),
                f"{load.rate:.1f}",
                f"{1000 * load.p50:.0f} ms",
                f"{1000 * load.p99:.0f} ms",
                str(load.refused),
                str(load.lost),
                f"{load.memory / 1e6:.0f} MB",
            )
        print_whole(Console(), table)
    if lost := sum(load.lost for load in loads):
        raise click.ClickException(f"{lost} requests had no result")


def _noise(engine: Path | None) -> list[bytes]:
    """Eight pictures of coarse noise."""
    import numpy as np
    from PIL import Image

    from ..runtime.bundle.loading import load_bundle
    from ..runtime.segmenter import EMBEDDED

    side = load_bundle(engine or EMBEDDED, verify=False).manifest.image.native_size
    found = []
    for seed in range(8):
        coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((side, side)).save(file, format="PNG")
        found.append(file.getvalue())
    return found
