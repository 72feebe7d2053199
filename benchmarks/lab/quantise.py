"""A bundle's network with 8-bit integers in its matrix products, to see whether that pays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import onnx

from ...export.cutting import write_cuts
from ...export.staging import staged
from ...export.twin import write_twins
from ...runtime.bundle import contract
from ...runtime.bundle.loading import load_bundle, record_file, write_manifest
from ...runtime.sessions.onnx_runtime import onnx_runtime

_BLOCK: Final = 128


@click.command("quantise")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", "output", type=click.Path(path_type=Path), required=True)
@click.option(
    "--activations/--weights-alone",
    default=True,
    show_default=True,
    help="Multiply in integers, activations quantised as they come; or in float32.",
)
def main(bundle: Path, output: Path, activations: bool) -> None:
    """Write a copy of BUNDLE whose network multiplies matrices of 8-bit integers.

    ONNX Runtime's own tools make it. Compare it by `mdrt bench latency --against OUTPUT`.
    """
    onnx_runtime()  # one line where it is missing
    source = load_bundle(bundle, verify=False)
    network = source.manifest.network
    with staged(output, overwrite=False) as aside:
        for name in source.manifest.files:
            if not name.startswith(network.removesuffix("onnx")):
                (aside / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source.path / name, aside / name)
        (_dynamic if activations else _weights)(source.network, aside / network)
        _check(aside / network, bundle)
        _write_twin(aside, source.manifest)
        write_cuts(aside, source.manifest)
        files = {
            path.relative_to(aside).as_posix(): record_file(path)
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        }
        write_manifest(aside, replace(source.manifest, files=files))
    click.echo(f"{output}: {sum(record.bytes for record in files.values()) / 1e9:.2f} GB")


def _check(graph: Path, bundle: Path) -> None:
    """Refuse a copy in which nothing was quantised: half-precision weights are no constants."""
    operators = {node.op_type for node in onnx.load(graph, load_external_data=False).graph.node}
    if not operators & {"MatMulInteger", "MatMulNBits"}:
        raise click.ClickException(
            f"{bundle} has no matrix product with float32 weights; export it with --weights fp32"
        )


def _dynamic(source: Path, target: Path) -> None:
    """A scale for every output channel of the weights, and for every tensor of activations."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _weights(source: Path, target: Path) -> None:
    """A scale for every `_BLOCK` weights; activations stay as they are."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=True)


def _write_twin(bundle: Path, manifest: contract.Manifest) -> None:
    native = manifest.image.native_size
    sizes = manifest.inputs(manifest.network, 1, native, native)
    write_twins(bundle / manifest.network, sizes)
