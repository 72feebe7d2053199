"""A stand-in for TensorRT and TensorRT-RTX that really computes.

An engine is a few bytes that name an ONNX graph; running it executes that graph with ONNX Runtime
at the very addresses, shapes and dtypes that were set. It fails, as a GPU would or worse, on an
address that is unset, freed, misaligned or too small, on a shape outside the profile, and on
whatever a CUDA graph must not do while it is captured.
"""

from __future__ import annotations

import ctypes
import json
import math
import weakref
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from mdrt.export.engines.options import EngineOptions
from mdrt.export.engines.profiles import complete, input_shapes
from mdrt.runtime.bundle import plan
from mdrt.runtime.bundle.cuts import WHOLE
from mdrt.runtime.bundle.loading import load_bundle, record_file
from mdrt.runtime.bundle.plan import BuildOptions, Kernels, PlanRecord, Proof, Range, plan_name

from .cupy import MEMORY, Stream, refuse_in_capture

VERSION: Final = "10.99"
MAGIC: Final = b"stand-in engine\n"
SCRATCH: Final = 4096
"""Bytes of scratch memory a row of the batch."""


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        pass


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY, EAGER, NONE = range(3)


_DTYPES: Final = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Runtime:
    def __init__(self, log: Any) -> None:
        self.log = log

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        if not data.startswith(MAGIC):
            self.log.log(Severity.ERROR, "Serialization assertion failed: magicTag")
            return None
        values = json.loads(data[len(MAGIC) :])
        if values["compute_capability"] != "8.9":
            self.log.log(Severity.ERROR, "the engine was built for another device")
            return None
        return Engine(values, self.log)


class Engine:
    """What a plan becomes; `loaded` counts those that are alive, by graph."""

    loaded: Final = weakref.WeakSet()  # type: ignore[var-annotated]

    def __init__(self, values: Mapping[str, Any], log: Any) -> None:
        self.log, self.profile, self.needs = log, values["shapes"], values
        self.filled = not values["stripped"]
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.session = ort.InferenceSession(values["graph"], options, ["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = list((self.inputs | self.outputs).values())
        self.contexts: list[Any] = []
        self.shapes: dict[Any, dict[str, tuple[int, ...]]] = {}
        self.loaded.add(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self.nodes)

    def get_tensor_name(self, index: int) -> str:
        return str(self.nodes[index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return str((self.inputs | self.outputs)[name].type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = (self.inputs | self.outputs)[name].shape
        return tuple(n if isinstance(n, int) else -1 for n in shape)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, how: Any) -> Context:
        assert self.filled, "the engine's weights were not filled in"
        strategy = how.strategy if isinstance(how, RuntimeConfig) else how
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        context = Context(self, how)
        self.contexts.append(weakref.ref(context))
        return context

    def outputs_for(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(shapes.items())
        if key not in self.shapes:
            feeds = {
                name: np.zeros(shape, _DTYPES[self.inputs[name].type])
                for name, shape in shapes.items()
            }
            found = self.session.run(list(self.outputs), feeds)
            self.shapes[key] = {
                name: value.shape for name, value in zip(self.outputs, found, strict=True)
            }
        return self.shapes[key]


class RuntimeConfig:
    """tensorrt-rtx's: how contexts come to be."""

    strategy: Any = None
    cache: RuntimeCache | None = None
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> None:
        self.cache = cache


class RuntimeCache:
    """Compiled kernels; `compiled` are those that were not in it."""

    compiled: Final[list[str]] = []

    def __init__(self) -> None:
        self.known: set[str] = set()

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"cache:"):
            return False
        self.known = set(data.decode().removeprefix("cache:").split(";"))
        return True

    def serialize(self) -> bytes:
        return f"cache:{';'.join(sorted(self.known))}".encode()

    def compile(self, kernel: str) -> None:
        if kernel not in self.known:
            self.compiled.append(kernel)
            self.known.add(kernel)


class Context:
    active_optimization_profile = -1

    def __init__(self, engine: Engine, how: Any) -> None:
        self.engine, self.how = engine, how
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.scratch = (0, 0)
        self.ran: set[Any] = set()

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.active_optimization_profile = index
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return not self.engine.needs.get("uncapturable", False)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        refuse_in_capture("a shape was set")
        span = self.engine.profile[name]
        inside = all(a <= n <= b for a, n, b in zip(span["min"], shape, span["max"], strict=True))
        if not inside:
            self.engine.log.log(Severity.ERROR, f"{name}: {shape} is outside the profile")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name) or self.engine.outputs_for(self.shapes)[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        refuse_in_capture("an address was set")
        self.addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert not self.infer_shapes()
        return SCRATCH * next(iter(self.shapes.values()))[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        refuse_in_capture("scratch memory was set")
        self.scratch = (memory, size)

    def execute_async_v3(self, stream: int) -> bool:
        if memory := self.engine.needs.get("memory"):
            rows = next(iter(self.shapes.values()))[0]
            if rows > memory:
                self.engine.log.log(Severity.ERROR, "Cuda Runtime (out of memory)")
                return False
        on = Stream.known[stream]
        key = (tuple(self.shapes.items()), tuple(self.addresses.items()))
        if isinstance(self.how, RuntimeConfig) and self.how.cache is not None:
            self.how.cache.compile(f"{self.engine.needs['graph'].rsplit('/', 1)[-1]}{self.shapes}")
        if not on.capturing:
            self._run(dict(self.shapes), dict(self.addresses), self.scratch)
            self.ran.add(key)
            return True
        assert key in self.ran, "captured before a first run of these shapes and addresses"
        assert not self.engine.needs.get("weight_streaming"), "weight streaming cannot be captured"
        alive = weakref.ref(self)
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch

        def replay() -> None:
            context = alive()
            assert context is not None, "a graph was launched whose context is gone"
            context._run(shapes, addresses, scratch)

        on.recorded.append(replay)
        return True

    def _run(
        self,
        shapes: dict[str, tuple[int, ...]],
        addresses: dict[str, int],
        scratch: tuple[int, int],
    ) -> None:
        engine = self.engine
        MEMORY.check(scratch[0], scratch[1], "scratch memory")
        assert scratch[1] >= self.update_device_memory_size_for_shapes(), "scratch is too small"
        np.ctypeslib.as_array(_bytes(*scratch))[:] = 0xAB  # whatever it held is gone
        binding = engine.session.io_binding()
        whole = shapes | engine.outputs_for(shapes)
        for name, node in (engine.inputs | engine.outputs).items():
            dtype = np.dtype(_DTYPES[node.type])
            at = addresses.get(name, 0)
            MEMORY.check(at, math.prod(whole[name]) * dtype.itemsize, name)
            bind = binding.bind_input if name in engine.inputs else binding.bind_output
            bind(name, "cpu", 0, dtype, whole[name], at)
        engine.session.run_with_iobinding(binding)


def _bytes(start: int, size: int) -> Any:
    return (ctypes.c_uint8 * size).from_address(start)


class Refitter:
    def __init__(self, engine: Engine, log: Any) -> None:
        self.engine = engine

    def refit_cuda_engine(self) -> bool:
        return self.engine.filled


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, log: Any) -> None:
        self.refitter, self.log = refitter, log

    def refit_from_file(self, path: str) -> bool:
        if Path(path).name != Path(self.refitter.engine.needs["graph"]).name:
            self.log.log(Severity.ERROR, f"{path} is another graph")
            return False
        self.refitter.engine.filled = True
        return True


def module(name: str) -> ModuleType:
    """The module of a library: "tensorrt" or "tensorrt_rtx"."""
    made = ModuleType(name)
    made.__dict__.update(
        __version__=VERSION,
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        DynamicShapesKernelSpecializationStrategy=DynamicShapesKernelSpecializationStrategy,
        Refitter=Refitter,
        OnnxParserRefitter=OnnxParserRefitter,
        nptype=_DTYPES.__getitem__,
    )
    return made


def write_engines(
    directory: Path,
    library: str = "tensorrt",
    profile: Mapping[str, Range] | None = None,
    compute_capabilities: tuple[str, ...] = ("8.9",),
    weight_streaming: bool = False,
    stripped: bool = False,
    cuts: tuple[str, ...] = (WHOLE,),
    **needs: Any,
) -> None:
    """Put the stand-in's engines and true sidecars beside the graphs of a bundle.

    `needs` go into the plan: `memory`, the rows that fit into the device; `uncapturable`;
    `compute_capability`, of the GPU that loads it.
    """
    manifest = load_bundle(directory).manifest
    whole = complete(profile or {}, manifest)
    for graph in EngineOptions(cuts=cuts).graphs(manifest):
        shapes = input_shapes(manifest, graph, whole)
        values = {
            "graph": str(directory / graph),
            "shapes": {name: {"min": s.min, "max": s.max} for name, s in shapes.items()},
            "stripped": stripped,
            "weight_streaming": weight_streaming,
            "compute_capability": "8.9",
            **needs,
        }
        path = directory / plan_name(graph)
        path.write_bytes(MAGIC + json.dumps(values).encode())
        record = PlanRecord(
            graph=graph,
            sources=plan.sources(manifest, graph),
            library=library,
            library_version=VERSION,
            created_by="0.1.0",
            precision=manifest.precision,
            profile=whole,
            shapes=shapes,
            compute_capabilities=compute_capabilities,
            options=BuildOptions(1 << 30, 3, weight_streaming, stripped),
            layers=12,
            kernels=Kernels(7, fused=1, split=2),
            plan=record_file(path),
            seconds=1.5,
            proof=Proof(reason="the stand-in was not proved"),
        )
        text = json.dumps(record.to_json())
        (directory / plan.sidecar_name(graph)).write_text(text, encoding="utf-8")
