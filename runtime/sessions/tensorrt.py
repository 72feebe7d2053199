"""A graph's TensorRT engine: on the device from its inputs to its outputs.

For every combination of input shapes there is an execution context with buffers of its own,
allocated once, their addresses set once. The first run of such a combination is an ordinary one;
the second is captured as a CUDA graph, which later runs launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...kernels import Array
from ..bundle.plan import PlanRecord, build_command, cache_name
from ..disk.atomic import write_atomically
from ..errors import DeviceMemoryError, EngineError, MdrtError, OutputError
from .base import Session, TensorSpec
from .device import REMEDY, Gpu, address
from .library import open_library
from .log import open_log

MOST_SHAPES: Final = 8
"""Combinations of input shapes that keep their buffers; the one used longest ago gives way."""

Shapes = tuple[tuple[int, ...], ...]


class TrtSession(Session):
    """An engine on a GPU. Its outputs are buffers that its next run fills anew."""

    def __init__(self, path: Path, record: PlanRecord, device: Gpu, cuda_graphs: bool = True):
        """Load an engine.

        Args:
            path: the `.plan` file, checked against its sidecar.
            record: the sidecar.
            device: the GPU.
            cuda_graphs: capture repeated runs, which then start at once.

        Raises:
            EngineError: the library cannot be loaded, or the engine is for another GPU.
            DeviceMemoryError: its weights do not fit.
        """
        super().__init__(path, device)
        self.record, self.gpu = record, device
        library = open_library(record.library)
        self._trt, self._name = library.module, f"{library.name} {library.version}"
        self._log = open_log(self._trt)
        self._check_gpu()
        self._engine = self._load()
        self._how = self._configure()
        self._graphs = cuda_graphs and not record.options.weight_streaming  # cannot be captured
        self._bound: dict[Shapes, _Bound] = {}
        self.inputs, self.outputs = self._specs()

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Put one run on the device's stream; every output is computed, whichever are wanted."""
        shapes = tuple(tuple(feeds[name].shape) for name in self.inputs)
        bound = self._bound.pop(shapes, None) or self._bind(shapes)
        self._bound[shapes] = bound  # the last one used stands last
        for name, buffer in bound.inputs.items():
            buffer[...] = feeds[name]
        self._run(bound)
        return [bound.outputs[name] for name in names]

    def close(self) -> None:
        super().close()
        self.gpu.stream.synchronize()  # nothing still runs on what is given up
        self._bound.clear()
        self._engine = None

    def _check_gpu(self) -> None:
        found, built_for = self.gpu.compute_capability, self.record.compute_capabilities
        if built_for and found not in built_for:
            raise EngineError(
                f"{self.path} is for compute capability {', '.join(built_for)}, this GPU has "
                f"{found}; {build_command(self.path.parent, self.record)}"
            )

    def _load(self) -> Any:
        trt = self._trt
        self._log.errors.clear()
        try:
            runtime = trt.Runtime(self._log)
            engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        except (RuntimeError, TypeError):  # what a null pointer becomes in Python
            engine = None
        if engine is None:
            raise self._refused(
                f"cannot load {self.path} on this GPU",
                f"; {build_command(self.path.parent, self.record)}",
            )
        if self.record.options.stripped:
            self._fill_in_weights(engine)
        return engine

    def _fill_in_weights(self, engine: Any) -> None:
        graph = self.path.with_name(self.record.graph)
        refitter = self._trt.Refitter(engine, self._log)
        filler = self._trt.OnnxParserRefitter(refitter, self._log)
        if not filler.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise self._refused(f"cannot fill the weights of {graph.name} into {self.path}")

    def _configure(self) -> Any:
        """How contexts come to be: scratch memory is ours, compiled kernels are kept."""
        trt = self._trt
        ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._compiles_here:
            return ours
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        # what a CUDA graph captured would stay the generic kernels of a first run
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._cache = config.create_runtime_cache()
        with suppress(OSError):
            self._cache.deserialize(self._cache_file.read_bytes())  # a foreign one is refused
        config.set_runtime_cache(self._cache)
        return config

    @property
    def _compiles_here(self) -> bool:
        """Whether the library compiles kernels where the engine runs, and can keep them."""
        return self.record.library == "tensorrt-rtx"

    @property
    def _cache_file(self) -> Path:
        return self.path.with_name(cache_name(self.record.graph, self.gpu.compute_capability))

    def _keep_compiled(self) -> None:
        """Write what was compiled beside the engine; where that cannot be, it is made again."""
        compiled = bytes(self._cache.serialize())
        with suppress(OSError, OutputError):
            if not self._cache_file.exists() or self._cache_file.read_bytes() != compiled:
                write_atomically(self._cache_file, lambda file: file.write(compiled))

    def _specs(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        trt, engine = self._trt, self._engine
        sides: tuple[dict[str, TensorSpec], dict[str, TensorSpec]] = ({}, {})
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = (None if n < 0 else n for n in engine.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).type
            output = engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
            sides[output][name] = TensorSpec(dtype, tuple(shape))
        return sides

    def _bind(self, shapes: Shapes) -> _Bound:
        """A context for these shapes of the inputs, in their order."""
        self._check_profile(shapes)
        if len(self._bound) >= MOST_SHAPES:
            self.gpu.stream.synchronize()  # nothing still runs on what is given up
            del self._bound[next(iter(self._bound))]
        try:
            return self._allocate(shapes)
        except self.gpu.out_of_memory as error:
            raise DeviceMemoryError(
                f"{self.path.name} is out of device memory ({error}); {REMEDY}"
            ) from error

    def _allocate(self, shapes: Shapes) -> _Bound:
        xp, stream = self.gpu.xp, self.gpu.stream
        self._log.errors.clear()
        context = self._engine.create_execution_context(self._how)
        if context is None:
            raise self._refused(f"cannot start {self.path.name}")
        if context.active_optimization_profile != 0:
            context.set_optimization_profile_async(0, stream.ptr)
        for name, shape in zip(self.inputs, shapes, strict=True):
            if not context.set_input_shape(name, shape):
                raise self._refused(f"cannot take {name} {shape} in {self.path.name}")
        if missing := context.infer_shapes():
            raise self._refused(f"cannot tell the shapes of {missing} in {self.path.name}")
        buffers: dict[str, Array] = {
            name: xp.empty(tuple(context.get_tensor_shape(name)), spec.dtype)
            for name, spec in {**self.inputs, **self.outputs}.items()
        }
        for name, buffer in buffers.items():
            if not context.set_tensor_address(name, address(buffer)):
                raise self._refused(f"cannot use the memory of {name} in {self.path.name}")
        scratch = self._scratch(context.update_device_memory_size_for_shapes())
        context.set_device_memory(address(scratch), scratch.nbytes)
        return _Bound(
            context,
            {name: buffers[name] for name in self.inputs},
            {name: buffers[name] for name in self.outputs},
            scratch,
        )

    def _scratch(self, size: int) -> Array:
        """Scratch memory, shared where it is large enough: contexts run one after another."""
        for bound in self._bound.values():
            if bound.scratch.nbytes >= size:
                return bound.scratch
        memory: Array = self.gpu.xp.empty(max(size, 1), "uint8")
        return memory

    def _check_profile(self, shapes: Shapes) -> None:
        for name, shape in zip(self.inputs, shapes, strict=True):
            low, high = self.record.shapes[name].min, self.record.shapes[name].max
            if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                raise MdrtError(
                    f"{self.path.name}: input {name} is {shape}, its profile takes {low} to "
                    f"{high}; build it for more with `mdrt build {self.path.parent} "
                    f"--library {self.record.library} --profile batch=MIN:OPT:MAX "
                    "--profile size=MIN:OPT:MAX`"
                )

    def _run(self, bound: _Bound) -> None:
        stream = self.gpu.stream
        if bound.graph is None and bound.ran and self._capturable(bound):
            bound.graph = self._capture(bound)
        if bound.graph is not None:
            bound.graph.launch(stream)
            return
        self._execute(bound)
        if not bound.ran and self._compiles_here:
            self._keep_compiled()
        bound.ran = True

    def _capturable(self, bound: _Bound) -> bool:
        if not self._graphs:
            return False
        ask = getattr(bound.context, "is_stream_capturable", None)
        return ask is None or ask(self.gpu.stream.ptr)

    def _capture(self, bound: _Bound) -> Any:
        stream = self.gpu.stream
        stream.begin_capture()
        try:
            self._execute(bound)
            return stream.end_capture()
        except Exception as error:
            with suppress(Exception):  # the capture is already broken; the first error tells why
                stream.end_capture()
            raise EngineError(
                f"{self.path.name} cannot be captured as a CUDA graph ({error}); run it without",
                cuda_graphs=False,
            ) from error

    def _execute(self, bound: _Bound) -> None:
        self._log.errors.clear()
        if bound.context.execute_async_v3(self.gpu.stream.ptr):
            return
        if any("out of memory" in line.lower() for line in self._log.errors):
            raise DeviceMemoryError(f"{self.path.name} is out of device memory; {REMEDY}")
        raise self._refused(f"failed to run {self.path.name}")

    def _refused(self, what: str, remedy: str = "") -> MdrtError:
        reason = next(iter(self._log.errors), "it gave no reason")
        if "out of memory" in reason.lower():
            return DeviceMemoryError(f"{self._name} {what}: {reason}; {REMEDY}")
        return EngineError(f"{self._name} {what}: {reason}{remedy}")


@dataclass
class _Bound:
    """One combination of input shapes: its context, and everything whose address it knows."""

    context: Any
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    scratch: Array
    ran: bool = False
    graph: Any = None
