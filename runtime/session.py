"""One protocol for every backend: names, types and ranks are checked, then a graph runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..kernels.cpu import operator_library
from . import contract
from .bundle import Bundle
from .errors import BundleError, MdrtError, ProviderError

PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""`--provider` → ONNX Runtime's own name for it."""

_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output: element type, and its shape with None for dynamic axes."""

    dtype: type[np.generic]
    shape: tuple[int | None, ...]

    def admits(self, array: NDArray[Any]) -> bool:
        """Whether an array has this type, this rank and every fixed axis."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(n in (None, m) for n, m in zip(self.shape, array.shape, strict=True))
        )


class Session(Protocol):
    """A loaded graph. `infer` takes and returns NumPy arrays by the contract's names."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    def infer(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]: ...


class OrtSession:
    """A graph on ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        provider: str = "cpu",
        threads: int | None = None,
        profile: bool = False,
    ) -> None:
        """Load a graph.

        Args:
            path: the `.onnx` file; external data is found beside it.
            provider: a key of `PROVIDERS`.
            threads: of one operator; None lets ONNX Runtime take every core.
            profile: note when each node runs, for `end_profile`.

        Raises:
            ProviderError: the provider is unknown or not in the installed ONNX Runtime.
            BundleError: ONNX Runtime cannot load the file.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings are about the graph, not for the user
        twin = path.name.endswith(contract.twin_name(""))
        if twin:
            options.register_custom_ops_library(str(operator_library()))
        if threads is not None:
            options.intra_op_num_threads = threads
        if provider == "cpu":
            _settle_on_cpu(options)
        if profile:
            options.enable_profiling = True
            # it adds the time of day, in which two sessions may agree
            options.profile_file_prefix = str(Path(tempfile.gettempdir()) / f"mdrt-{uuid4().hex}")
        self.path = path
        try:
            self._session = ort.InferenceSession(
                str(path),
                options,
                providers=[resolve_provider(provider)],
                # a twin's convolutions read their weights in place: no copies in another layout
                disabled_optimizers=["NchwcTransformer"] if twin else [],
            )
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            reason = str(error).strip().splitlines()[0]
            raise BundleError(f"ONNX Runtime cannot load {path}: {reason}") from error
        found = self._session.get_providers()[0]
        if found != PROVIDERS[provider]:
            raise ProviderError(
                f"ONNX Runtime has {PROVIDERS[provider]} but could not start it and would run on "
                f"{found}; check its libraries (CUDA, cuDNN), or use --provider cpu"
            )
        self.inputs = {node.name: _spec(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in self._session.get_outputs()}

    def infer(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            feeds: every input by name.
            wanted: the outputs to return; all of them by default.

        Raises:
            MdrtError: a name, type or shape is not the graph's.
        """
        for name in self.inputs.keys() ^ feeds.keys():
            arrived = "is no input" if name in feeds else "was not given"
            raise MdrtError(f"{self.path.name}: {name} {arrived}; inputs are {list(self.inputs)}")
        for name, array in feeds.items():
            if not self.inputs[name].admits(array):
                raise MdrtError(
                    f"{self.path.name}: input {name} is {array.dtype} {array.shape}, "
                    f"expected {self.inputs[name].dtype.__name__} {self.inputs[name].shape}"
                )
        names = list(self.outputs) if wanted is None else list(wanted)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            reason = str(error).strip().splitlines()[0]
            raise MdrtError(f"{self.path.name} failed: {reason}") from error
        for name, value in zip(names, values, strict=True):
            if not np.isfinite(value).all():
                raise MdrtError(
                    f"{self.path.name} gave NaN or infinity in {name}: half precision overflows "
                    "on this model; export it with --precision fp32 or bf16"
                )
        return dict(zip(names, values, strict=True))

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
    import onnxruntime as ort

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


def resolve_provider(provider: str) -> str:
    """ONNX Runtime's name of a provider that is installed.

    Raises:
        ProviderError: unknown, or not part of the installed ONNX Runtime.
    """
    import onnxruntime as ort

    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}; choose one of {', '.join(PROVIDERS)}")
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise ProviderError(
            f"provider {provider!r} is not in the installed ONNX Runtime; put the one of the extra "
            "mdrt[gpu] in its place (`pip uninstall --yes onnxruntime && pip install "
            "--force-reinstall --no-deps onnxruntime-gpu`), or use --provider cpu"
        )
    return PROVIDERS[provider]


def check_precision(precision: str, provider: str) -> None:
    """See that a provider has kernels for what a bundle's graphs compute in.

    Raises:
        ProviderError: bfloat16, of which ONNX Runtime has few on the CPU.
    """
    if precision == "bf16" and provider == "cpu":
        raise ProviderError(
            "the bundle computes in bf16, which ONNX Runtime cannot on a CPU; use --provider cuda "
            "or tensorrt, or export with --precision fp32 (half as large with --weights fp16)"
        )


def wants_winograd(asked: bool | None, bundle: Bundle, provider: str) -> bool:
    """Whether to take the graphs with Winograd convolutions; None takes them where they can run.

    Raises:
        ProviderError: asked for, and something is missing.
    """
    if asked is False:
        return False
    reasons = {
        f"{bundle.path} has no graphs for them; run `mdrt export` again": bundle.graphs(True)
        == bundle.graphs(False),
        "they run on the CPU; use --provider cpu": provider != "cpu",
        "mdrt was installed without a C++ compiler; install one, then mdrt again": (
            operator_library() is None
        ),
    }
    missing = [reason for reason, true in reasons.items() if true]
    if missing and asked:
        raise ProviderError(f"no Winograd convolutions: {missing[0]}")
    return not missing


def _spec(node: Any) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    return TensorSpec(_TYPES[node.type], shape)
