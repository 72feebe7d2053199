"""The embedded model as the diffusers pipeline it was exported from, without a second copy of it.

The bundle that ships holds nearly every weight, bit for bit. `storybook/` beside this file holds
the rest (the decoder, what follows the UNet's last tap), the names under which the bundle has the
others, and the configurations; together they are the pipeline again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save

from ....cli.options import engine_option
from ....export.staging import staged
from ....runtime.bundle import contract
from ....runtime.errors import BundleError
from ....runtime.segmenter import EMBEDDED

SOURCE: Final = Path(__file__).with_name("storybook")
REST: Final = "rest.safetensors"
TURNED: Final = ".T"
"""After the name of a borrowed weight that the graph holds transposed."""

PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "unet": ("diffusion_pytorch_model.safetensors", "unet.onnx"),
    "vae": ("diffusion_pytorch_model.safetensors", contract.VAE_ENCODER),
    "text_encoder": ("model.safetensors", contract.text_encoder_name(0)),
}
"""Part of a pipeline → the file of its weights, and the graph that was made of it."""

Weights = dict[str, NDArray[Any]]


def keep(pipeline: Path, bundle: Path, source: Path = SOURCE) -> None:
    """Write into `source` what a bundle lacks of the pipeline that it was exported from."""
    rest: Weights = {}
    borrowed: dict[str, str] = {}
    for part, (file, graph) in PARTS.items():
        held: dict[Any, str] = {}
        for name, values in _constants(bundle / graph).items():
            held |= {_content(values.T): name + TURNED, _content(values): name}
        for name, values in load_file(pipeline / part / file).items():
            if (found := held.get(_content(values))) is None:
                rest[f"{part}/{name}"] = values
            else:
                borrowed[f"{part}/{name}"] = found
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(
        pipeline, source, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer.json")
    )
    (source / REST).write_bytes(save(rest, {"borrowed": json.dumps(borrowed)}))


def write_pipeline(folder: Path, bundle: Path, source: Path = SOURCE) -> None:
    """Write the pipeline, its weights in half precision.

    Raises:
        BundleError: the bundle lacks a weight that is borrowed from it.
        ExportError: there is something at `folder`.
    """
    rest = load_file(source / REST)
    with safe_open(source / REST, "np") as opened:
        borrowed: dict[str, str] = json.loads(opened.metadata()["borrowed"])
    with staged(folder, overwrite=False) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(REST))
        tokenizer = contract.tokenizer_name(0)
        shutil.copyfile(bundle / tokenizer, aside / tokenizer)
        for part, (file, graph) in PARTS.items():
            held = _constants(bundle / graph)
            weights = _of_part(part, rest)
            for name, found in _of_part(part, borrowed).items():
                if found.removesuffix(TURNED) not in held:
                    raise BundleError(
                        f"{bundle / graph} has no {found}, which the pipeline's {name} is; "
                        "the bundle is another export than the one that was kept"
                    )
                values = held[found.removesuffix(TURNED)].astype(np.float16)
                turned = values.T if found.endswith(TURNED) else values
                weights[name] = np.ascontiguousarray(turned)
            (aside / part / file).write_bytes(save(weights, {"format": "pt"}))


def _of_part(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{part}/"
    return {k.removeprefix(start): value for k, value in values.items() if k.startswith(start)}


def _constants(graph: Path) -> Weights:
    """The floating-point constants of a graph, by name."""
    found = {c.name: numpy_helper.to_array(c) for c in onnx.load(graph).graph.initializer}
    return {name: values for name, values in found.items() if values.dtype.kind == "f"}


def _content(values: NDArray[Any]) -> tuple[tuple[int, ...], bytes]:
    """Equal for equal weights, whatever the precision they are held in."""
    return values.shape, values.astype(np.float32).tobytes()


@click.command("storybook")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--keep",
    "kept",
    is_flag=True,
    help="FOLDER is the pipeline that the embedded bundle was just exported from: note what the "
    "bundle lacks of it.",
)
@engine_option
def main(folder: Path, kept: bool, engine: Path | None) -> None:
    """Write the embedded model to FOLDER as a diffusers pipeline."""
    bundle = engine or EMBEDDED
    if kept:
        keep(folder, bundle)
        click.echo(f"{SOURCE / REST}: {(SOURCE / REST).stat().st_size / 1e6:.2f} MB")
    else:
        write_pipeline(folder, bundle)
        click.echo(f"wrote {folder}")
