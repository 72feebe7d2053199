"""Proof that an engine is its graph: run on the GPU, beside ONNX Runtime on the CPU.

At the three points of the profile (smallest, tuned for, largest) the same random inputs go through
both. Names and shapes must agree, no value may be NaN or infinite, and values must lie within the
tolerance of the graph's precision. Where the engine cannot run, the proof says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import contract
from ...runtime.bundle.loading import Bundle
from ...runtime.bundle.plan import PlanRecord, Proof
from ...runtime.errors import EngineError, MdrtError, ProviderError
from ...runtime.sessions.device import Gpu, open_gpu
from ...runtime.sessions.ort import OrtSession
from ...runtime.sessions.tensorrt import TrtSession

Arrays = dict[str, NDArray[Any]]

TOLERANCE: Final[Mapping[str, float]] = {"fp32": 1e-3, "fp16": 2e-2}
"""The largest max|a − b| / max|b| of an output, by what the graph computes in. ONNX Runtime has no
bfloat16 kernels on the CPU: of such engines, values are only seen to be finite."""


def find_gpu(capabilities: tuple[str, ...]) -> Gpu | str:
    """The GPU of this machine, or why engines for `capabilities` (none: any) cannot be run here."""
    try:
        gpu = open_gpu()
    except ProviderError as error:
        return str(error)
    if capabilities and gpu.compute_capability not in capabilities:
        return (
            f"built for compute capability {', '.join(capabilities)}, and the GPU here has "
            f"{gpu.compute_capability}"
        )
    return gpu


def prove_engine(bundle: Bundle, plan: Path, record: PlanRecord, gpu: Gpu) -> Proof:
    """Run an engine and its graph on the same inputs.

    Args:
        bundle: holds the graph.
        plan: the engine, not yet beside its graph.
        record: its sidecar, so far.
        gpu: to run it on.

    Raises:
        EngineError: a name or shape differs, or a value is not finite or too far off.
        DeviceMemoryError: the largest inputs of the profile do not fit into the GPU's memory.
    """
    tolerance = TOLERANCE.get(record.precision)
    oracle = OrtSession(bundle.path / record.graph) if tolerance else None
    worst, count = 0.0, 0
    with gpu.active():
        engine = TrtSession(plan, record, gpu, cuda_graphs=False)
        if oracle is not None and engine.outputs.keys() != oracle.outputs.keys():
            raise EngineError(
                f"the engine of {record.graph} gives {sorted(engine.outputs)}, "
                f"the graph {sorted(oracle.outputs)}"
            )
        for feeds in _examples(bundle, record):
            where = f"the engine of {record.graph} at {_shapes(feeds)}"
            expected = {} if oracle is None else oracle.infer(feeds)
            for name, values in _run(where, engine, gpu, feeds).items():
                error = _compare(f"{where}: output {name}", values, expected.get(name))
                if tolerance is not None and error > tolerance:
                    raise EngineError(
                        f"{where}: output {name} differs from ONNX Runtime by {error:.2g} of its "
                        f"largest value, expected at most {tolerance:g}; build it with another "
                        "library version, or export with precision fp32"
                    )
                worst, count = max(worst, error), count + 1
    return Proof(gpu.name, count, worst, tolerance or 0.0)


def _examples(bundle: Bundle, record: PlanRecord) -> Iterator[Arrays]:
    """Random inputs at the three points of the profile, the same on every machine."""
    texts = {text.graph: text.tokens for text in bundle.manifest.texts}
    points = dict.fromkeys(
        tuple((name, getattr(span, point)) for name, span in record.shapes.items())
        for point in ("min", "opt", "max")
    )
    for shapes in points:
        random = np.random.default_rng(0)
        yield {
            name: _example(bundle, texts.get(record.graph), name, shape, random)
            for name, shape in shapes
        }


def _example(
    bundle: Bundle,
    spec: contract.TokenizerSpec | None,
    name: str,
    shape: tuple[int, ...],
    random: np.random.Generator,
) -> NDArray[Any]:
    """One input; `spec` is that of a text encoder's tokens."""
    if spec is not None:
        ids = np.full(shape, spec.pad, np.int64)
        if spec.begins:
            ids[:, 0] = spec.bos
        ids[:, min(1 + shape[1] // 2, shape[1] - 1)] = spec.eos
        return ids
    if name == contract.TIMESTEP:
        return random.integers(0, bundle.manifest.levels, shape)
    if name == contract.IMAGE:
        return random.uniform(-1, 1, shape).astype(np.float32)
    return random.standard_normal(shape, dtype=np.float32)


def _run(where: str, engine: TrtSession, gpu: Gpu, feeds: Arrays) -> Arrays:
    outputs = engine.infer({name: gpu.upload(values) for name, values in feeds.items()})
    try:
        values = gpu.download(*outputs.values())()
    except MdrtError as error:  # names the output that is not finite
        raise EngineError(f"{where}: {error}") from error
    return dict(zip(outputs, values, strict=True))


def _compare(where: str, found: NDArray[Any], expected: NDArray[Any] | None) -> float:
    """max|a − b| / max|b|; 0 where there is nothing to compare with."""
    if expected is None:
        return 0.0
    if found.shape != expected.shape:
        raise EngineError(f"{where} has shape {found.shape}, the graph gives {expected.shape}")
    largest = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found - expected).max()) / largest


def _shapes(feeds: Arrays) -> str:
    return ", ".join(f"{name} {values.shape}" for name, values in feeds.items())
