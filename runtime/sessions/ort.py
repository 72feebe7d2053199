"""Graphs on ONNX Runtime, on any of its providers; on a GPU inputs and outputs stay there."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from uuid import uuid4

import numpy as np

from ...kernels import Array
from ...kernels.cpu import operator_library
from ..bundle import contract
from ..errors import BundleError, DeviceMemoryError, MdrtError, ProviderError
from .base import Session, TensorSpec
from .deadline import stoppable
from .device import REMEDY, Device, Gpu, Host, address
from .onnx_runtime import onnx_runtime
from .placement import ASK, CPU, node_counts
from .providers import Provider, first_line, plugin_device, preload, resolve_provider

_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
}

_NO_MEMORY: Final = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation")


class OrtSession(Session):
    """A graph on ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        provider: str = "cpu",
        threads: int | None = None,
        profile: bool = False,
        device: Device | None = None,
        allow_cpu_nodes: bool = False,
        lean: bool = False,
    ) -> None:
        """Load a graph.

        Args:
            path: the `.onnx` file; external data is found beside it.
            provider: a key of `PROVIDERS`.
            threads: of one operator; None lets ONNX Runtime take every core.
            profile: note when each node runs, for `end_profile`.
            device: where its arrays live; needed for a provider on a GPU.
            allow_cpu_nodes: let another provider than the CPU's leave nodes to it that do more
                than compute sizes.
            lean: take less memory and more time: what follows from weights alone, as those stored
                in half widened, is computed in every run, and memory goes back after each.

        Raises:
            ProviderError: the provider is unknown or not in the installed ONNX Runtime, cannot
                start, or leaves nodes to the CPU.
            BundleError: ONNX Runtime cannot load the file.
        """
        super().__init__(path, device or Host())
        self._lean = lean
        ort = onnx_runtime()
        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings are about the graph, not for the user
        twin = contract.is_twin(path.name)
        if twin:
            options.register_custom_ops_library(str(operator_library()))
        if threads is not None:
            options.intra_op_num_threads = threads
        if provider == "cpu":
            _settle_on_cpu(options)
        if lean:
            # beyond it weights are folded whatever is disabled; and in the file's order each is
            # widened before the one node that reads it, by default all are before the first
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if profile:
            options.enable_profiling = True
            # it adds the time of day, in which two sessions may agree
            options.profile_file_prefix = str(Path(tempfile.gettempdir()) / f"mdrt-{uuid4().hex}")
        chosen = resolve_provider(provider)
        elsewhere = chosen.name != CPU
        if elsewhere:
            options.add_session_config_entry(ASK, "1")
        missing = preload(chosen)
        try:
            self._session: Any = ort.InferenceSession(
                str(path),
                options,
                providers=_with_options(chosen, options, self.device),
                disabled_optimizers=[
                    # a twin's operators read their weights in place: no copies in another layout
                    *(["NchwcTransformer"] if twin else []),
                    *(["ConstantFolding"] if lean else []),
                ],
                enable_fallback=False,  # it would print, and try another provider
            )
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            if elsewhere and isinstance(error, RuntimeError | ValueError):  # and are none of these
                raise ProviderError(
                    f"ONNX Runtime cannot start {chosen.name} ({first_line(error)}); "
                    f"{missing or 'check its libraries'}, or use provider cpu",
                    provider="cpu",
                ) from error
            raise BundleError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
        found = self._session.get_providers()[0]
        if found != chosen.name:
            raise ProviderError(
                f"ONNX Runtime has {chosen.name} but could not start it and would run on "
                f"{found}; {missing or 'check its libraries (CUDA, cuDNN)'}, or use provider cpu",
                provider="cpu",
            )
        self.nodes: dict[str, int] = {}
        """Provider → how many nodes of the graph it has; empty on the CPU, which has them all."""
        if elsewhere:
            self.nodes = node_counts(
                self._session, path, chosen.name, ort.__version__, allow_cpu_nodes
            )
        self.inputs = {node.name: _spec(node, path) for node in self._session.get_inputs()}
        self.outputs = {node.name: _spec(node, path) for node in self._session.get_outputs()}

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        run = self._run_bound if isinstance(self.device, Gpu) else self._session.run
        options = onnx_runtime().RunOptions()
        if self._lean:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            with stoppable(options):
                values: Sequence[Array] = run(names, dict(feeds), options)
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            reason = first_line(error)
            if any(words in str(error).lower() for words in _NO_MEMORY):
                raise DeviceMemoryError(
                    f"{self.path.name} is out of memory ({reason}); {REMEDY}"
                ) from error
            raise MdrtError(f"{self.path.name} failed: {reason}") from error
        return values

    def close(self) -> None:
        super().close()
        self._session = None

    def _run_bound(
        self, names: Sequence[str], feeds: Mapping[str, Array], options: Any
    ) -> list[Array]:
        """Run on the device's stream, inputs where they lie and outputs where they fall."""
        assert isinstance(self.device, Gpu)
        memory, xp = self.device.memory, self.device.xp
        lying = {name: xp.ascontiguousarray(array) for name, array in feeds.items()}
        binding = self._session.io_binding()
        for name, array in lying.items():
            binding.bind_input(name, memory, 0, array.dtype, array.shape, address(array))
        for name in names:
            binding.bind_output(name, memory, 0)
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._session.run_with_iobinding(binding, options)
        return [_borrow(value, xp) for value in binding.get_outputs()]

    def end_profile(self) -> tuple[int, list[dict[str, Any]]]:
        """What ONNX Runtime noted since it was loaded with `profile`, which it stops.

        Returns:
            When it began, in nanoseconds of `time.time_ns`, and its events in Chrome's format,
            times in microseconds from there.
        """
        began = self._session.get_profiling_start_time_ns()
        file = Path(self._session.end_profiling())
        try:
            events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        finally:
            file.unlink()
        return began, events


def _borrow(value: Any, xp: ModuleType) -> Array:
    """A value of ONNX Runtime's on the device as an array, which keeps it alive."""
    dtype, shape = np.dtype(_TYPES[value.data_type()]), tuple(value.shape())
    memory = xp.cuda.UnownedMemory(value.data_ptr(), dtype.itemsize * math.prod(shape), value)
    array: Array = xp.ndarray(shape, dtype, xp.cuda.MemoryPointer(memory, 0))
    return array


def _settle_on_cpu(options: Any) -> None:
    """Weights once, as they lie in the file; one arena; cores left alone between two graphs."""
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # packed weights are a second copy: twice the time to load, no time gained
    options.add_session_config_entry("session.disable_prepacking", "1")
    # a plan of the first run's memory would be held beside what the arena already has
    options.enable_mem_pattern = False
    # threads that wait for more work would take a core from NumPy and from the other graphs
    options.add_session_config_entry("session.force_spinning_stop", "1")


@cache
def _share_memory() -> None:
    """One arena for the sessions of this process, since one graph runs at a time, grown by what
    is asked for; by default each has its own, grown by powers of two."""
    ort = onnx_runtime()
    # 1: kSameAsRequested; -1: ONNX Runtime's own default
    arena = ort.OrtArenaCfg(
        {
            "max_mem": 0,
            "arena_extend_strategy": 1,
            "initial_chunk_size_bytes": -1,
            "max_dead_bytes_per_chunk": -1,
        }
    )
    kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), arena)


def _with_options(
    provider: Provider, options: Any, device: Device
) -> list[tuple[str, dict[str, str]]] | None:
    """The providers for a session, each with its options; None where `options` hold them."""
    own = dict(provider.options)
    stream = {}
    if isinstance(device, Gpu):
        stream = {"device_id": "0", "user_compute_stream": str(device.stream.ptr)}
    if provider.plugin:
        options.add_provider_for_devices([plugin_device(provider)], own | stream)
        return None
    names = [provider.name, *filter(None, [provider.then])]
    return [(name, (own if name == provider.name else {}) | stream) for name in names]


def _spec(node: Any, path: Path) -> TensorSpec:
    if node.type not in _TYPES:
        raise BundleError(
            f"{path}: {node.name[:80]!a} is a {node.type}, expected {' or '.join(_TYPES)}; "
            "run `mdrt export` again"
        )
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    return TensorSpec(_TYPES[node.type], shape)
