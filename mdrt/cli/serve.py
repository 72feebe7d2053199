"""`mdrt serve`: a page and an HTTP API over one model."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from ..runtime.errors import MdrtWarning
from . import Terminated
from .groups import Command, experts, group, option
from .options import COUNT, WORKERS, engine_option, provider_option, threads_option
from .progress import say

_MIB: Final = 1 << 20


@click.command("serve", cls=Command, extra="serve")
@group(
    "Where",
    option("--host", default="127.0.0.1", show_default=True, help="The address to listen at."),
    option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        help="The port; 0 takes a free one.",
    ),
    option(
        "--token",
        envvar="MDRT_TOKEN",
        help="What callers must send as Authorization: Bearer TOKEN; better given as MDRT_TOKEN.",
    ),
)
@group(
    "How",
    engine_option,
    option(
        "--workers",
        type=WORKERS,
        default=1,
        show_default=True,
        help="Pictures worked on at once, each by networks of its own; they share the cores.",
    ),
    option(
        "--label-studio",
        metavar="URL",
        help="The Label Studio whose tasks' pictures are fetched, with its token in "
        "LABEL_STUDIO_API_KEY.",
    ),
)
@group(
    "How much",
    option(
        "--queue",
        type=COUNT,
        default=32,
        show_default=True,
        help="Pictures that may wait; beyond, callers are told to come again.",
    ),
    option(
        "--timeout",
        type=click.FloatRange(min=1),
        default=120,
        show_default=True,
        help="Seconds until a request is given up.",
    ),
    option(
        "--max-size",
        type=COUNT,
        default=1024,
        show_default=True,
        metavar="PIXELS",
        help="Of the longer side, the most that the network is shown; masks keep a picture's own "
        "size.",
    ),
    option(
        "--looks",
        type=COUNT,
        default=1024,
        show_default=True,
        metavar="MB",
        help="What may be kept of pictures that are asked again.",
    ),
)
@experts(
    provider_option,
    threads_option,
    option(
        "--cors",
        "origins",
        multiple=True,
        metavar="ORIGIN",
        help="A site whose pages may call, as https://example.org; may be repeated.  [default: "
        "none]",
    ),
    option(
        "--max-bytes",
        type=COUNT,
        default=32,
        show_default=True,
        metavar="MB",
        help="Of one request.",
    ),
    option(
        "--max-pixels",
        type=COUNT,
        default=40,
        show_default=True,
        metavar="MILLIONS",
        help="Of one picture.",
    ),
    option(
        "--max-names",
        type=COUNT,
        default=200,
        show_default=True,
        help="Of one question, synonyms counted.",
    ),
)
def serve_command(
    host: str,
    port: int,
    token: str | None,
    engine: Path | None,
    workers: int,
    label_studio: str | None,
    queue: int,
    timeout: float,
    max_size: int,
    looks: int,
    provider: str | None,
    threads: int | None,
    origins: tuple[str, ...],
    max_bytes: int,
    max_pixels: int,
    max_names: int,
) -> None:
    """Serve a page to try names on, and an HTTP API, until Ctrl-C.

    \b
    mdrt serve
    mdrt serve --engine sd15 --workers 2
    mdrt serve --label-studio http://127.0.0.1:8080 --port 9090
    """
    from ..runtime.segmenter import EMBEDDED_KNOWS, Segmenter
    from ..runtime.serve.app import LOOPBACK
    from ..runtime.serve.labelstudio import Source
    from ..runtime.serve.limits import Limits
    from ..runtime.serve.running import run, share_of_cores, start_workers

    console = Console(stderr=True)
    limits = Limits(
        bytes=max_bytes * _MIB,
        pixels=max_pixels * 1_000_000,
        names=max_names,
        max_size=max_size,
        waiting=queue,
        seconds=timeout,
        looks=looks * _MIB,
    )
    each = threads or (share_of_cores(workers) if workers > 1 else None)
    # a worker's warnings are of its callers' names, who are told them in the answer
    warnings.simplefilter("ignore", MdrtWarning)
    serving = start_workers(
        lambda: Segmenter(engine, provider=provider, threads=each), workers, limits
    )
    if engine is None:
        say(console, "note", EMBEDDED_KNOWS)
    if host not in LOOPBACK and token is None:
        say(
            console,
            "warning",
            f"{host} can be reached from elsewhere, and there is no --token: whoever reaches it "
            "may segment",
        )
    key = os.environ.get("LABEL_STUDIO_API_KEY", "")
    try:
        with suppress(KeyboardInterrupt, Terminated):  # its own way to end
            run(
                serving,
                host,
                port,
                token=token,
                origins=origins,
                label_studio=None if label_studio is None else Source(label_studio, key),
                started=lambda url: console.print(Text(f"serving at {url} (Ctrl-C ends it)")),
            )
    finally:
        serving.close()
