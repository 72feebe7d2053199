"""`mdrt export`: the command line of the exporter."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Table

from ..export.engines.options import EngineOptions
from ..export.engines.profiles import parse_profiles
from ..export.options import BFLOAT16_OPSET, DEFAULT_OPSET, OPSETS, WEIGHTS, ExportOptions
from ..runtime.bundle.contract import MODES, POOLINGS, PRECISIONS, Recommended
from ..runtime.bundle.plan import LIBRARIES
from ..runtime.errors import ExportError, MdrtError
from ..runtime.look.prompts import load_classes, synonyms
from ..runtime.sessions.library import open_library
from .build import build, engine_table, profile_option
from .tables import print_whole

if TYPE_CHECKING:
    from ..export.exporter import ExportReport
    from ..export.proof import Row

_INSTALLED: Final = "installed"


@click.command("export", short_help="Turn a Stable Diffusion pipeline into a bundle.")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle's directory."
)
@click.option(
    "--feature-strides",
    default="64,32,16",
    show_default=True,
    help="Image pixels per cell of the features to return.",
)
@click.option(
    "--attention-strides",
    default="64,32",
    show_default=True,
    help="Image pixels per cell of the cross-attention layers to return.",
)
@click.option(
    "--self-attention-strides",
    default="",
    help="The same of self-attention layers, their heads averaged, for `mdrt eval --method "
    "diffseg`: 64,32,16,8 as published.  [default: none]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Arithmetic inside; norms, softmax, logits and outputs stay float32.",
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="same",
    show_default=True,
    help="fp16: store weights in half and compute in float32.",
)
@click.option(
    "--opset",
    type=click.IntRange(*OPSETS),
    metavar="INT",
    help=f"ONNX opset version; {DEFAULT_OPSET} by default, {BFLOAT16_OPSET} for bf16.",
)
@click.option(
    "--vae", type=click.Path(path_type=Path), help="Another VAE's directory, as a TAESD's."
)
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default="exp",
    show_default=True,
    help="What the bundle recommends for turning logits into class maps.",
)
@click.option(
    "--timestep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INT",
    help="The timestep index the bundle recommends; the paper's t = 1 is 0.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="paper",
    show_default=True,
    help="The prototype formula the bundle recommends.",
)
@click.option(
    "--presence",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="The share of the attention's cells a name must win to be taken as present, which the "
    "bundle recommends; 0 takes every name, others need --pooling softmax.",
)
@click.option(
    "--sharpness",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="POWER",
    help="The power of class maps the bundle recommends; 1 is the paper's.",
)
@click.option(
    "--attention",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="The share of class maps in the scores that the bundle recommends; 0 is the paper's.",
)
@click.option(
    "--refine/--no-refine",
    default=False,
    show_default=True,
    help="Whether the bundle recommends that boundaries follow the picture's edges.",
)
@click.option(
    "--segments-timestep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INT",
    help="The timestep index the bundle recommends for unnamed segments.",
)
@click.option(
    "--segments-sharpness",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="POWER",
    help="The power of the affinity the bundle recommends for them; 1 is the paper's.",
)
@click.option(
    "--classes",
    default="",
    help="Names a closed-vocabulary model knows: comma-separated, or a file with one a line and "
    "commas between synonyms.",
)
@click.option(
    "--trt",
    type=click.Choice([_INSTALLED, *LIBRARIES]),
    is_flag=False,
    flag_value=_INSTALLED,
    help="Then build TensorRT engines, as `mdrt build` does; --trt=LIBRARY says with what.",
)
@profile_option
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print the proof as JSON.")
def export_command(
    model: str,
    output: Path,
    feature_strides: str,
    attention_strides: str,
    self_attention_strides: str,
    precision: str,
    weights: str,
    opset: int | None,
    vae: Path | None,
    pooling: str,
    timestep: int,
    mode: str,
    presence: float,
    sharpness: float,
    attention: float,
    refine: bool,
    segments_timestep: int,
    segments_sharpness: float,
    classes: str,
    trt: str | None,
    profiles: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn MODEL, a diffusers pipeline directory or hub id, into a bundle.

    Every graph is proved against PyTorch before the bundle appears.
    """
    if presence and pooling != "softmax":
        raise click.UsageError(f"--presence needs --pooling softmax, not {pooling}")
    options = ExportOptions(
        feature_strides=_strides(feature_strides),
        attention_strides=_strides(attention_strides),
        self_attention_strides=_strides(self_attention_strides) if self_attention_strides else (),
        precision=precision,
        weights=weights,
        opset=opset,
        vae=vae,
        recommended=Recommended(
            pooling=pooling,
            timestep=timestep,
            mode=mode,
            presence=presence,
            sharpness=sharpness,
            attention=attention,
            refine=refine,
            segments_timestep=segments_timestep,
            segments_sharpness=segments_sharpness,
        ),
        classes=_names(classes),
        overwrite=overwrite,
    )
    if profiles and trt is None:
        raise click.UsageError("--profile goes with --trt")
    engines = EngineOptions(profile=parse_profiles(profiles))
    try:
        from ..export import exporter
    except ImportError as error:
        raise MdrtError(
            f"mdrt export needs {error.name}, which is not installed; "
            "run `pip install '.[export]'` in mdrt's own folder"
        ) from error
    # what is missing is said before the export, which takes minutes
    library = None if trt is None else open_library(None if trt == _INSTALLED else trt)
    errors = Console(stderr=True)
    try:
        with errors.status("exporting") as status:
            report = exporter.export(model, output, options, progress=status.update)
    except exporter.ProofError as error:
        print_whole(errors, proof_table(error.rows))
        raise
    if precision == "bf16":
        errors.print(
            "[yellow]warning:[/] ONNX Runtime cannot run bf16 on a CPU: this bundle needs "
            "--provider cuda or tensorrt. For CPUs export with --precision fp32, half as large "
            "with --weights fp16.",
            soft_wrap=True,
        )
    values = _record(report) | {"peak_bytes": _peak_bytes()}
    if not as_json:
        print_whole(Console(), proof_table(report.proof))
        click.echo(
            f"{report.path}: {values['bytes'] / 1e6:.1f} MB, proved; "
            f"peak memory {values['peak_bytes'] / 1e9:.1f} GB, "
            f"weights {report.weight_bytes / 1e9:.1f} GB"
        )
    if library is not None:
        records = build(report.path, library, engines)
        values["engines"] = [record.to_json() for record in records.values()]
        if not as_json:
            print_whole(Console(), engine_table(records))
    if as_json:
        click.echo(json.dumps(values, indent=2))


def proof_table(rows: Sequence[Row]) -> Table:
    """The proof for people: tensor, shape of the largest case, error, tolerance, verdict."""
    table = Table("graph", "tensor", "shape", "max error", "tolerance", "verdict")
    for row in rows:
        shape = " × ".join(map(str, max(row.shapes)))
        verdict = "[green]pass[/]" if row.passed else "[red]FAIL[/]"
        cells = (row.graph, row.tensor, shape, f"{row.error:.1e}", f"{row.tolerance:.0e}")
        table.add_row(*cells, verdict)
    notes = sorted({f"{row.graph}: {row.note}" for row in rows if row.note})
    table.caption = "\n".join(notes) or None
    return table


def _record(report: ExportReport) -> dict[str, Any]:
    """The proof for machines."""
    return {
        "bundle": str(report.path),
        "model_id": report.manifest.model_id,
        "created_by": dict(report.manifest.created_by),
        "bytes": sum(record.bytes for record in report.manifest.files.values()),
        "weight_bytes": report.weight_bytes,
        "proof": [
            {
                "graph": row.graph,
                "tensor": row.tensor,
                "shapes": row.shapes,
                "max_error": row.error,
                "tolerance": row.tolerance,
                "passed": row.passed,
                "note": row.note,
            }
            for row in report.proof
        ],
    }


def _peak_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _strides(text: str) -> tuple[int, ...]:
    try:
        strides = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ExportError(
            f"strides {text!r} cannot be read; expected numbers as in 64,32,16"
        ) from None
    return strides


def _names(text: str) -> tuple[tuple[str, ...], ...]:
    """Class names with their synonyms, from a list or a file."""
    if not text:
        return ()
    classes = (tuple(filter(None, synonyms(name))) for name in load_classes(text))
    return tuple(names for names in classes if names)
