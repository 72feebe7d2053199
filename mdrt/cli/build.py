"""`mdrt build`: the command line of the engine builder."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from ..export.engines.options import EngineOptions
from ..export.engines.profiles import parse_profiles
from ..runtime.bundle.cuts import WHOLE
from ..runtime.bundle.plan import LIBRARIES, PlanRecord
from ..runtime.sessions.library import Library, open_library
from .groups import Command, experts, group, option
from .options import COUNT, PATH, json_option, profile_option
from .tables import engine_table, print_whole


@click.command("build", cls=Command)
@click.argument("bundle", type=PATH)
@group(
    "For which GPU, and how",
    option(
        "--library",
        type=click.Choice(list(LIBRARIES)),
        help="What builds: tensorrt for the GPU of this machine, tensorrt-rtx without a GPU for "
        "any from Ampere on.  [default: the first that is installed]",
    ),
    option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="X.Y",
        help="A GPU to build for, as 8.9; may be repeated (tensorrt-rtx).",
    ),
    profile_option,
    option(
        "--cuts",
        default=WHOLE,
        show_default=True,
        metavar="NAME,…",
        help="How much of the UNet: encoder for what reads features=encoder, features for what "
        "leaves finer attention layers alone, whole. Several are engines of their own.",
    ),
    option("--weight-streaming", is_flag=True, help="Let weights stay in host memory at run time."),
)
@group("Results", json_option)
@experts(
    option(
        "--workspace",
        type=COUNT,
        metavar="MIB",
        help="The most scratch memory on the device.",
    ),
    option(
        "--optimization-level",
        type=click.IntRange(0, 5),
        metavar="0-5",
        help="How long to search for faster kernels.",
    ),
    option(
        "--timing-cache",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Measurements to start from and to add to (tensorrt).",
    ),
    option("--strip-weights", is_flag=True, help="Leave weights out of the engines; needs a GPU."),
)
def build_command(
    bundle: Path,
    library: str | None,
    compute_capabilities: tuple[str, ...],
    profiles: tuple[str, ...],
    cuts: str,
    weight_streaming: bool,
    as_json: bool,
    workspace: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    strip_weights: bool,
) -> None:
    """Build the TensorRT engines of BUNDLE, a directory that `mdrt export` wrote.

    Beside each graph appear its engine and a sidecar that says what it is good for. Precision is
    the graphs' own: export with --precision fp16 for half.

    \b
    mdrt build sd15
    mdrt build sd15 --profile batch=1:2:8 --profile size=512:512:768
    mdrt build sd15 --cuts encoder,whole
    """
    options = EngineOptions(
        profile=parse_profiles(profiles),
        cuts=tuple(name.strip() for name in cuts.split(",")),
        workspace=workspace,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        compute_capabilities=compute_capabilities,
        weight_streaming=weight_streaming,
        strip_weights=strip_weights,
    )
    records = build(bundle, open_library(library), options)
    if as_json:
        click.echo(json.dumps([record.to_json() for record in records.values()], indent=2))
    else:
        print_whole(Console(), engine_table(records))


def build(bundle: Path, library: Library, options: EngineOptions) -> dict[str, PlanRecord]:
    """Build a bundle's engines while bars on standard error show the builder's phases."""
    from ..export.engines.build import build_engines
    from ..runtime.bundle.loading import load_bundle
    from .progress import PhaseBars, progress_bar

    checked = load_bundle(bundle)
    with progress_bar(Console(stderr=True)) as bars:
        return build_engines(checked, library, options, PhaseBars(bars))
