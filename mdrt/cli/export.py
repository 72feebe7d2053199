"""`mdrt export`: the command line of the exporter."""

from __future__ import annotations

import json
import resource
import sys
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from ..export.engines.options import EngineOptions
from ..export.engines.profiles import parse_profiles
from ..export.options import BFLOAT16_OPSET, DEFAULT_OPSET, OPSETS, WEIGHTS, ExportOptions
from ..runtime.bundle.contract import PRECISIONS
from ..runtime.bundle.plan import LIBRARIES
from ..runtime.errors import ExportError
from ..runtime.look.prompts import load_classes, synonyms
from ..runtime.sessions.library import open_library
from .build import build
from .groups import Command, experts, group, option
from .options import PATH, json_option, out_option, profile_option
from .progress import say
from .tables import engine_table, print_whole, proof_table

if TYPE_CHECKING:
    from ..export.exporter import ExportReport

_INSTALLED: Final = "installed"

GONE: Final[Mapping[str, str]] = {
    "--output": "--out",
    **{
        f"--{name}": f"a setting in a --recommend file, as: [{head}] {setting} = …"
        for name, head, setting in (
            ("mode", "maskdiffusion", "mode"),
            ("pooling", "maskdiffusion", "pooling"),
            ("timestep", "maskdiffusion", "timestep"),
            ("presence", "maskdiffusion", "presence"),
            ("sharpness", "maskdiffusion", "map_power"),
            ("attention", "maskdiffusion", "attention"),
            ("refine", "maskdiffusion", "refine"),
            ("no-refine", "maskdiffusion", "refine"),
            ("segments-timestep", "spectral", "timestep"),
            ("segments-sharpness", "spectral", "affinity_power"),
        )
    },
}


@click.command("export", cls=Command, gone=GONE, extra="export")
@click.argument("model")
@group(
    "The model",
    option("--vae", metavar="DIR|FILE|ID", help="Another VAE, as a TAESD's."),
    option(
        "--lora",
        "loras",
        multiple=True,
        metavar="FILE[:SCALE]",
        help="Merge a LoRA, of kohya's or diffusers' format; may be repeated.",
    ),
    option(
        "--tokenizer",
        type=PATH,
        metavar="DIR",
        help="A CLIP's vocabulary, for a checkpoint in one file.  [default: the hub's]",
    ),
)
@group(
    "What heads may read",
    option(
        "--attention-strides",
        help="Image pixels per cell of the cross-attention layers to return.  [default: those of "
        "64,32]",
    ),
    option(
        "--self-attention-strides",
        default="",
        help="The same of self-attention layers, their queries and keys, for heads refined and "
        "diffseg: 64,32,16,8 as published.  [default: none]",
    ),
)
@group(
    "How it is stored",
    option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="fp32",
        show_default=True,
        help="Arithmetic inside; norms, softmax, logits and outputs stay float32.",
    ),
    option(
        "--weights",
        type=click.Choice(WEIGHTS),
        default="same",
        show_default=True,
        help="fp16: store weights in half and compute in float32.",
    ),
)
@group(
    "What it tells",
    option(
        "--recommend",
        type=PATH,
        metavar="FILE.toml",
        help="Settings that the bundle recommends, a table for each head, as `mdrt heads` lists "
        "them.  [default: none, the paper's]",
    ),
)
@group(
    "Results",
    out_option("the bundle", required=True),
    option("--overwrite", is_flag=True, help="Replace an existing bundle."),
    option(
        "--trt",
        type=click.Choice([_INSTALLED, *LIBRARIES]),
        is_flag=False,
        flag_value=_INSTALLED,
        help="Then build TensorRT engines, as `mdrt build` does; --trt=LIBRARY says with what.",
    ),
    json_option,
)
@experts(
    option("--variant", metavar="NAME", help="Of the weights in a directory or on the hub: fp16."),
    option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id."),
    option(
        "--config",
        type=PATH,
        metavar="DIR",
        help="A diffusers pipeline's directory with the configuration of a checkpoint in one file; "
        "those of Stable Diffusion 1.x, 2.x and XL are known.",
    ),
    option(
        "--blocks",
        default="",
        metavar="INT,…",
        help="Of Stable Diffusion 3: transformer blocks whose attention to return; features are of "
        "the last of them.  [default: 9 of 24, as in Seg4Diff]",
    ),
    option(
        "--feature-strides",
        help="Image pixels per cell of the features to return.  [default: those of 64,32,16 that "
        "the model has]",
    ),
    option(
        "--classes",
        default="",
        metavar="NAMES|@FILE",
        help="Names a closed-vocabulary model knows: comma-separated, or @FILE, a text with one a "
        "line and commas between synonyms (a name that ends in .txt needs no @).",
    ),
    option(
        "--opset",
        type=click.IntRange(*OPSETS),
        metavar="INT",
        help=f"ONNX opset version; {DEFAULT_OPSET} by default, {BFLOAT16_OPSET} for bf16.",
    ),
    profile_option,
)
def export_command(
    model: str,
    vae: str | None,
    loras: tuple[str, ...],
    tokenizer: Path | None,
    attention_strides: str | None,
    self_attention_strides: str,
    precision: str,
    weights: str,
    recommend: Path | None,
    out: Path,
    overwrite: bool,
    trt: str | None,
    as_json: bool,
    variant: str | None,
    revision: str | None,
    config: Path | None,
    blocks: str,
    feature_strides: str | None,
    classes: str,
    opset: int | None,
    profiles: tuple[str, ...],
) -> None:
    """Turn MODEL, a .safetensors checkpoint, diffusers directory or hub id, into a bundle.

    Every graph is proved against PyTorch before the bundle appears. Pickles are refused.

    \b
    mdrt export stable-diffusion-v1-5/stable-diffusion-v1-5 --out sd15
    mdrt export model.safetensors --lora style.safetensors:0.8 --out style
    mdrt export ./pipeline --out small --weights fp16 --recommend best.toml
    """
    options = ExportOptions(
        feature_strides=None if feature_strides is None else _strides(feature_strides),
        attention_strides=None if attention_strides is None else _strides(attention_strides),
        self_attention_strides=_strides(self_attention_strides) if self_attention_strides else (),
        blocks=_strides(blocks) if blocks else (),
        precision=precision,
        weights=weights,
        opset=opset,
        vae=vae,
        loras=loras,
        tokenizer=tokenizer,
        config=config,
        variant=variant,
        revision=revision,
        recommended={} if recommend is None else _tables(recommend),
        classes=_names(classes),
        overwrite=overwrite,
    )
    if profiles and trt is None:
        raise click.UsageError("--profile goes with --trt")
    engines = EngineOptions(profile=parse_profiles(profiles))
    from ..export import exporter

    # what is missing is said before the export, which takes minutes
    library = None if trt is None else open_library(None if trt == _INSTALLED else trt)
    errors = Console(stderr=True)
    try:
        with errors.status("exporting") as status:
            tell = status.update if errors.is_terminal else partial(say, errors, "export")
            report = exporter.export(model, out, options, progress=tell)
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
            f"peak memory {values['peak_bytes'] / 1e9:.1f} GB"
        )
        if not report.manifest.recommended:
            click.echo(
                "it recommends no settings: heads run as in the paper, until --set or "
                "--recommend says otherwise"
            )
        asked = '--classes "sky, tree"' if report.manifest.texts else "--unsupervised"
        click.echo(f"next: mdrt segment PICTURE {asked} --engine {report.path}")
    if library is not None:
        records = build(report.path, library, engines)
        values["engines"] = [record.to_json() for record in records.values()]
        if not as_json:
            print_whole(Console(), engine_table(records))
    if as_json:
        click.echo(json.dumps(values, indent=2))


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


def _tables(path: Path) -> Mapping[str, Any]:
    """What a file recommends: a table for each head.

    Raises:
        ExportError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ExportError(f"{path} is no TOML: {' '.join(str(error).split())}") from error
