"""`mdrt triton`: write a model repository for a Triton server."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import Command, experts, group, option
from .options import COUNT, PATH, head_option, provider_option, set_option, threads_option

if TYPE_CHECKING:
    from ..runtime.triton.repository import Networks

NETWORKS = ("inside", "onnxruntime", "tensorrt")


@click.command("triton", cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("repository", type=PATH)
@group(
    "What runs",
    option(
        "--networks",
        type=click.Choice(NETWORKS),
        default="inside",
        show_default=True,
        help="Where the networks run: inside the model that is asked, for which Triton's python "
        "backend suffices; or as models of their own on its onnxruntime or tensorrt backend, "
        "which put the tiles of several requests together.",
    ),
    option("--gpu", is_flag=True, help="Run networks on onnxruntime on the server's GPUs."),
    option(
        "--instances",
        type=COUNT,
        default=1,
        show_default=True,
        help="How many pictures are worked on at once.",
    ),
)
@group(
    "What a request need not say",
    option("--classes", metavar="NAMES|@FILE", help="Names, as for `mdrt segment`."),
    head_option,
    set_option,
)
@group(
    "Results",
    option(
        "--overwrite",
        is_flag=True,
        help="Replace a folder of other origin too; a repository of mdrt is replaced in any case.",
    ),
)
@experts(provider_option, threads_option)
def triton_command(
    bundle: Path,
    repository: Path,
    networks: Networks,
    gpu: bool,
    instances: int,
    classes: str | None,
    head: str | None,
    settings: Mapping[str, str],
    overwrite: bool,
    provider: str | None,
    threads: int | None,
) -> None:
    """Write REPOSITORY, a folder of models that a Triton server loads, from BUNDLE.

    The model `mdrt` takes a picture's file and names, and gives labels and a record. The server's
    Python needs mdrt. BUNDLE may be `embedded`, the model that comes with mdrt.

    \b
    mdrt triton sd15 models
    mdrt triton sd15 models --networks onnxruntime --gpu --instances 2
    tritonserver --model-repository models
    """
    from ..runtime.heads import find_head, parse
    from ..runtime.look.prompts import load_classes, synonyms
    from ..runtime.segmenter import EMBEDDED, Segmenter
    from ..runtime.triton.repository import parameters, write_repository

    if head is None and settings:
        raise click.UsageError("--set is a setting of a head; give --head too")
    if networks != "inside" and (provider is not None or threads is not None):
        raise click.UsageError("--provider and --threads are of networks inside")
    if gpu and networks == "inside":
        raise click.UsageError("--gpu is of networks on onnxruntime; inside, give --provider")
    engine = EMBEDDED if str(bundle) == "embedded" else bundle
    given = {} if head is None else parse(find_head(head), settings)
    names = None
    if classes is not None:
        listed = load_classes(classes)
        names = json.dumps([list(synonyms(name)) for name in listed])
    if head is not None or names is not None:
        with warnings.catch_warnings(), Segmenter(engine) as segmenter:
            warnings.simplefilter("ignore")
            if head is not None:
                segmenter.settle(head, **given)
            if names is not None:
                segmenter.prepare(listed)
    told = parameters(
        head,
        given,
        classes=names,
        provider=provider,
        threads=None if threads is None else str(threads),
    )
    models = write_repository(
        engine,
        repository,
        networks,
        settings=told,
        instances=instances,
        gpu=gpu,
        overwrite=overwrite,
    )
    click.echo(f"wrote {repository}: {', '.join(models)}")
    click.echo(f"tritonserver --model-repository {repository}")
