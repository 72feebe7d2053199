"""A bundle's UNet with 8-bit integers in its matrix products, by ONNX Runtime's own tools.

    python -m mdrt.benchmarks.speed.quantise BUNDLE TARGET dynamic|weights

"dynamic" quantises weights beforehand, a scale for every output channel, and activations as they
come; "weights" quantises weights alone, a scale for every 128 of them, and multiplies in float32.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...runtime import contract
from ...runtime.bundle import load_bundle, record_file, write_manifest

KINDS: Final = ("dynamic", "weights")
_BLOCK: Final = 128


def quantised_bundle(bundle: Path, folder: Path, kind: str) -> Path:
    """The quantised twin of a bundle in `folder`, made in a process of its own if it is not there.

    Raises:
        RuntimeError: it cannot be made.
    """
    key = load_bundle(bundle, verify=False).manifest.files[contract.UNET].sha256[:12]
    target = folder / f"{bundle.name}-{key}-{kind}"
    if not target.exists():
        command = [sys.executable, "-P", "-m", __name__, str(bundle), str(target), kind]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise RuntimeError(f"{bundle} cannot be quantised: {lines[-1]}")
    return target


def main() -> None:
    source, target, kind = sys.argv[1:]
    bundle = load_bundle(source, verify=False)
    aside = Path(f"{target}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(
        bundle.path, aside, ignore=shutil.ignore_patterns("unet.*"), copy_function=os.link
    )
    (aside / contract.MANIFEST).unlink()
    if kind == "dynamic":
        _dynamic(bundle.unet, aside / contract.UNET)
    else:
        _weights(bundle.unet, aside / contract.UNET)
    _write_twin(aside, bundle.manifest)
    files = {
        path.relative_to(aside).as_posix(): record_file(path)
        for path in sorted(aside.rglob("*"))
        if path.is_file()
    }
    write_manifest(aside, replace(bundle.manifest, files=files))
    aside.rename(target)


def _dynamic(source: Path, target: Path) -> None:
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
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=True)


def _write_twin(bundle: Path, manifest: contract.Manifest) -> None:
    from ...export.twin import write_twin

    cells = manifest.native_size // manifest.vae_factor
    hidden = (1, manifest.tokenizer.max_length, manifest.text.hidden)
    sizes = {
        contract.SAMPLE: (1, manifest.latent_channels, cells, cells),
        contract.TIMESTEP: (1,),
        contract.ENCODER_HIDDEN_STATES: hidden,
    }
    write_twin(bundle / contract.UNET, sizes)


if __name__ == "__main__":
    main()
