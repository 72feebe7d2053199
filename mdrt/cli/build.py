"""`mdrt build`: the command line of the engine builder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..export.engines.options import EngineOptions
from ..export.engines.profiles import parse_profiles
from ..runtime.bundle.plan import LIBRARIES, PlanRecord
from ..runtime.sessions.library import Library, open_library
from .tables import print_whole

profile_option = click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME=MIN:OPT:MAX",
    help="What may vary at run time: batch (rows), size (pixels a side); one number fixes it.  "
    "[default: batch=1:1:4, size=the model's own]",
)


@click.command("build", short_help="Build the TensorRT engines of a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--library",
    type=click.Choice(list(LIBRARIES)),
    help="What builds: tensorrt for the GPU of this machine, tensorrt-rtx without a GPU for any "
    "from Ampere on.  [default: the first that is installed]",
)
@profile_option
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="The most scratch memory on the device.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    metavar="0-5",
    help="How long to search for faster kernels.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measurements to start from and to add to (tensorrt).",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="X.Y",
    help="A GPU to build for, as 8.9; may be repeated (tensorrt-rtx).",
)
@click.option(
    "--weight-streaming", is_flag=True, help="Let weights stay in host memory at run time."
)
@click.option(
    "--strip-weights", is_flag=True, help="Leave weights out of the engines; needs a GPU."
)
@click.option("--json", "as_json", is_flag=True, help="Print the sidecars as JSON.")
def build_command(
    bundle: Path,
    library: str | None,
    profiles: tuple[str, ...],
    workspace: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    capabilities: tuple[str, ...],
    weight_streaming: bool,
    strip_weights: bool,
    as_json: bool,
) -> None:
    """Build the TensorRT engines of BUNDLE, a directory that `mdrt export` wrote.

    Beside each graph appear its engine and a sidecar that says what it is good for. Precision is
    the graphs' own: export with --precision fp16 for half.

    \b
    mdrt build sd15
    mdrt build sd15 --profile batch=1:2:8 --profile size=512:512:768
    """
    options = EngineOptions(
        profile=parse_profiles(profiles),
        workspace=workspace,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        compute_capabilities=capabilities,
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
    from .pictures import progress_bar

    checked = load_bundle(bundle)
    with progress_bar(Console(stderr=True)) as bars:
        return build_engines(checked, library, options, bars)


def engine_table(records: Mapping[str, PlanRecord]) -> Table:
    """One row an engine: what it was built from and for, its size and its time."""
    table = Table(
        "graph", "precision", "layers", "kernels", "attention", "MB", "seconds", "inputs at most"
    )
    for graph, record in records.items():
        shapes = (f"{name} {_shape(shape.max)}" for name, shape in record.shapes.items())
        table.add_row(
            graph,
            record.precision,
            f"{record.layers}",
            f"{record.kernels.count}",
            f"{record.kernels.fused} fused, {record.kernels.split} split",
            f"{record.plan.bytes / 1e6:.1f}",
            f"{record.seconds:.1f}",
            "\n".join(shapes),
        )
    record = next(iter(records.values()))
    profile = ", ".join(f"{name} {span}" for name, span in record.profile.items())
    table.caption = f"{record.library} {record.library_version}; {profile}\n{_proved(records)}"
    return table


def _proved(records: Mapping[str, PlanRecord]) -> str:
    """What the proofs come to, in a line."""
    proofs = [record.proof for record in records.values()]
    if not proofs[0].gpu:
        return f"not proved, only built: {proofs[0].reason}"
    worst = max(proofs, key=lambda proof: proof.error / (proof.tolerance or 1))
    values = (
        f"within {worst.error:.1e} of ONNX Runtime (allowed {worst.tolerance:g})"
        if worst.tolerance
        else "all finite (ONNX Runtime has no bfloat16 to compare with)"
    )
    outputs = sum(proof.outputs for proof in proofs)
    return f"proved on {worst.gpu}: {outputs} outputs at the profile's ends, {values}"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
