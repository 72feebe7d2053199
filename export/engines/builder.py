"""One graph to one engine: parse, configure, build; the same code for both libraries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...runtime.bundle.plan import BuildOptions, Kernels, Shapes
from ...runtime.disk.atomic import write_atomically
from ...runtime.errors import EngineError
from ...runtime.sessions.library import Library
from ...runtime.sessions.log import open_log
from .layers import count_kernels
from .monitor import Phases, progress_monitor
from .options import EngineOptions

_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Engine:
    """A built engine: its bytes, still the library's own memory, and what is known of it."""

    plan: memoryview
    options: BuildOptions
    layers: int
    kernels: Kernels
    seconds: float


def build_engine(
    library: Library,
    graph: Path,
    shapes: Mapping[str, Shapes],
    options: EngineOptions,
    phases: Phases,
) -> Engine:
    """Build the engine of one ONNX graph, in the precision the graph is written in.

    Args:
        library: what builds it.
        graph: the `.onnx` file; its weights' file is found beside it.
        shapes: every input's, the one optimisation profile.
        options: checked against the library.
        phases: told of the builder's.

    Raises:
        EngineError: the library cannot read the graph, or refused to build it.
    """
    monitor = progress_monitor(library.module, phases)
    # In a thread, so that Ctrl-C is heard: here it would be raised, and lost, in the library's log.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: _Build(library, graph, monitor).run(shapes, options))
        try:
            return future.result()
        except BaseException:
            monitor.cancel()  # the thread ends at the builder's next step
            raise


class _Build:
    """One build under way: the library's objects, which refer to each other."""

    def __init__(self, library: Library, graph: Path, monitor: Any) -> None:
        self.library = library
        self.graph = graph
        trt = library.module
        self.log = open_log(trt)
        self.log.clear()
        try:
            self.builder = trt.Builder(self.log)
        except (RuntimeError, TypeError) as error:  # what a null pointer becomes in Python
            raise self._refused("cannot start") from error
        self.network = self.builder.create_network(_strongly_typed(trt))
        self.config = self.builder.create_builder_config()
        self.config.progress_monitor = monitor

    def run(self, shapes: Mapping[str, Shapes], options: EngineOptions) -> Engine:
        self._parse()
        self._configure(options)
        self._add_profile(shapes)
        started = time.perf_counter()
        plan = self.builder.build_serialized_network(self.network, self.config)
        seconds = time.perf_counter() - started
        if plan is None:
            raise self._refused(f"cannot build {self.graph.name}")
        if options.timing_cache is not None:
            cache = self.config.get_timing_cache().serialize()
            write_atomically(options.timing_cache, lambda file: file.write(cache))
        kernels = count_kernels(self.network, self.log.layers)
        return Engine(memoryview(plan), self._told(), self.network.num_layers, kernels, seconds)

    def _parse(self) -> None:
        parser = self.library.module.OnnxParser(self.network, self.log)
        if not parser.parse_from_file(str(self.graph)):
            errors = [
                " ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors)
            ]
            raise self._refused(f"cannot read {self.graph.name}", *errors)

    def _configure(self, options: EngineOptions) -> None:
        trt, config = self.library.module, self.config
        # without it neither the builder nor, on a GPU, the engine tells what became of a layer
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 is float32, not ten bits of mantissa
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * _MIB)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.timing_cache is not None:
            known = options.timing_cache
            cache = config.create_timing_cache(known.read_bytes() if known.exists() else b"")
            if not config.set_timing_cache(cache, ignore_mismatch=False):
                raise self._refused(f"cannot use the timing cache {known}")
        if options.weight_streaming:
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if options.strip_weights:
            config.set_flag(trt.BuilderFlag.STRIP_PLAN)
            config.set_flag(trt.BuilderFlag.REFIT)  # tensorrt-rtx strips only what can be refitted
        if options.compute_capabilities:
            self._target(options.compute_capabilities)

    def _target(self, capabilities: tuple[str, ...]) -> None:
        known = self.library.module.ComputeCapability.__members__
        self.config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            name = f"SM{capability.replace('.', '')}"
            if name not in known:
                names = [f"{n[2:-1]}.{n[-1]}" for n in known if n >= "SM80" or n.startswith("SM1")]
                raise EngineError(
                    f"{self.library.name} {self.library.version} cannot target compute capability "
                    f"{capability}; expected some of {', '.join(names)}"
                )
            self.config.set_compute_capability(known[name], index)

    def _add_profile(self, shapes: Mapping[str, Shapes]) -> None:
        profile = self.builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        self.config.add_optimization_profile(profile)

    def _told(self) -> BuildOptions:
        trt, config = self.library.module, self.config
        return BuildOptions(
            workspace=config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
            optimization_level=config.builder_optimization_level,
            weight_streaming=config.get_flag(trt.BuilderFlag.WEIGHT_STREAMING),
            stripped=config.get_flag(trt.BuilderFlag.STRIP_PLAN),
        )

    def _refused(self, what: str, *reasons: str) -> EngineError:
        reason = next(iter((*reasons, *self.log.errors)), "it gave no reason")
        return EngineError(f"{self.library.name} {self.library.version} {what}: {reason}")


def _strongly_typed(trt: Any) -> int:
    """The flag that makes a network keep the graph's own types; newer libraries know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)
