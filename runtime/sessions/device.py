"""Where arrays live between the upload of a picture and the download of its labels.

NumPy at the rim, the device's arrays inside, converted once each way. On the host everything is
immediate; on a GPU everything is put on one stream, and only what `download` gives waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...kernels import Array
from ..blas import one_thread
from ..errors import DeviceMemoryError, MdrtError, ProviderError

REMEDY: Final = (
    "reduce pictures to a lower size for the network, give fewer classes at once, or free the "
    "device of other work; engines built for a smaller batch need less"
)


_OLDEST_CUDA: Final = 12
"""That an extra of mdrt brings CuPy for."""

Download = Callable[[], list[NDArray[Any]]]


class Device(Protocol):
    """One place to compute."""

    @property
    def xp(self) -> ModuleType:
        """The array module: numpy or cupy."""

    def active(self) -> AbstractContextManager[None]:
        """While a picture is worked on; running out of memory in it is a `DeviceMemoryError`."""

    def upload(self, array: NDArray[Any]) -> Array:
        """The array on the device; what is given may be changed at once."""

    def download(self, *arrays: Array) -> Download:
        """Begin to copy arrays to the host. What is given waits and gives NumPy's copies; it
        raises MdrtError if a value that `expect_finite` was told of is not finite."""

    def expect_finite(self, what: str, values: Array) -> None:
        """Note or raise that a graph's output holds NaN or infinity.

        Raises:
            MdrtError: it does, and that is known without waiting.
        """

    def mark(self) -> Any:
        """This moment in the order of the device's work."""

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks, both set before a download that was waited for."""

    def free(self) -> None:
        """Give memory back that no array takes."""


class Host:
    """The processor and its memory, by NumPy."""

    @property
    def xp(self) -> ModuleType:
        return np

    @contextmanager
    def active(self) -> Iterator[None]:
        try:
            with one_thread():
                yield
        except MemoryError as error:
            raise DeviceMemoryError(f"out of memory ({error}); {REMEDY}") from error

    def upload(self, array: NDArray[Any]) -> Array:
        return array

    def download(self, *arrays: Array) -> Download:
        return lambda: list(arrays)

    def expect_finite(self, what: str, values: Array) -> None:
        if not np.isfinite(values).all():
            raise _not_finite(what)

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def free(self) -> None:
        pass


class Gpu:
    """One NVIDIA GPU, by CuPy, and the one stream that all work of a model goes to."""

    memory: Final = "cuda"
    """ONNX Runtime's name for it."""

    def __init__(self, cupy: ModuleType) -> None:
        self.cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._unchecked: list[tuple[str, Array]] = []
        self._staged: list[NDArray[Any]] = []  # what the device may still be reading

    @property
    def xp(self) -> ModuleType:
        return self.cupy

    @property
    def name(self) -> str:
        """Of the GPU, as its driver tells it."""
        name: bytes = self.xp.cuda.runtime.getDeviceProperties(0)["name"]
        return name.decode()

    @property
    def compute_capability(self) -> str:
        """Of the GPU, as "8.9"."""
        digits = str(self.xp.cuda.Device().compute_capability)
        return f"{digits[:-1]}.{digits[-1]}"

    @property
    def out_of_memory(self) -> type[Exception]:
        """What CuPy raises when the device's memory does not suffice."""
        error: type[Exception] = self.xp.cuda.memory.OutOfMemoryError
        return error

    @contextmanager
    def active(self) -> Iterator[None]:
        try:
            with self.stream:
                yield
        except BaseException as error:
            self._unchecked.clear()
            if isinstance(error, self.out_of_memory):
                raise DeviceMemoryError(f"out of device memory ({error}); {REMEDY}") from error
            raise

    def upload(self, array: NDArray[Any]) -> Array:
        staged = self._pinned(array)
        staged[...] = array
        self._staged.append(staged)
        uploaded: Array = self.xp.empty(array.shape, array.dtype)
        uploaded.set(staged, self.stream)  # type: ignore[attr-defined]
        return uploaded

    def download(self, *arrays: Array) -> Download:
        unchecked, self._unchecked = self._unchecked, []
        sources = [self.xp.ascontiguousarray(array) for array in arrays]
        if unchecked:
            sources.append(self.xp.stack([finite for _, finite in unchecked]))
        staged = [self._pinned(source) for source in sources]
        for source, target in zip(sources, staged, strict=True):
            source.get(out=target, blocking=False)

        def wait() -> list[NDArray[Any]]:
            self.stream.synchronize()
            self._staged.clear()
            if unchecked:
                for (what, _), finite in zip(unchecked, staged.pop(), strict=True):
                    if not finite:
                        raise _not_finite(what)
            # results must not hold on to pinned memory
            return [target.copy() for target in staged]

        return wait

    def expect_finite(self, what: str, values: Array) -> None:
        self._unchecked.append((what, self.xp.isfinite(values).all()))

    def mark(self) -> Any:
        event = self.xp.cuda.Event()
        event.record(self.stream)
        return event

    def seconds(self, start: Any, end: Any) -> float:
        milliseconds: float = self.xp.cuda.get_elapsed_time(start, end)
        return milliseconds / 1000

    def free(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()

    def _pinned(self, like: Array) -> NDArray[Any]:
        """An array of the host that the device can copy from and to on its own."""
        memory = self.xp.cuda.alloc_pinned_memory(max(like.nbytes, 1))
        flat = np.frombuffer(memory, like.dtype, like.size)
        return flat.reshape(like.shape)


def address(array: Any) -> int:
    """Where an array of CuPy's begins in the device's memory."""
    pointer: int = array.data.ptr
    return pointer


def open_gpu() -> Gpu:
    """The first GPU, by CuPy.

    Raises:
        ProviderError: CuPy is missing, for another CUDA than the driver's, or finds no GPU.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise ProviderError(
            f"computing on a GPU needs {error.name}, which is not installed; run "
            "`pip install '.[cupy-cuda13x]'` in mdrt's own folder, or '.[cupy-cuda12x]' where "
            "`nvidia-smi` shows CUDA 12"
        ) from error
    except ImportError as error:  # a CUDA library that it was linked with
        reason = str(error).strip().splitlines()[0]
        raise ProviderError(
            f"CuPy is installed but cannot be loaded ({reason}); install the one for the CUDA that "
            "`nvidia-smi` shows, with its libraries: `pip install --upgrade 'cupy-cuda13x[ctk]'` "
            "or `'cupy-cuda12x[ctk]'`, not both"
        ) from error
    api = cupy.cuda.runtime
    built, driver = api.runtimeGetVersion() // 1000, api.driverGetVersion() // 1000
    if 0 < driver < built:
        other = (
            f"run `pip uninstall --yes cupy-cuda{built}x && pip install '.[cupy-cuda{driver}x]'` "
            "in mdrt's own folder, or "
        )
        raise ProviderError(
            f"CuPy {cupy.__version__} is for CUDA {built}, and the driver of this machine for CUDA "
            f"{driver}; {other if driver >= _OLDEST_CUDA else ''}install a newer driver"
        )
    try:
        api.getDeviceCount()
    except api.CUDARuntimeError as error:
        raise ProviderError(
            f"CuPy {cupy.__version__} finds no GPU ({error}); check that `nvidia-smi` lists one, "
            "or use provider cpu with the bundle's ONNX graphs",
            provider="cpu",
        ) from error
    return Gpu(cupy)


def _not_finite(what: str) -> MdrtError:
    return MdrtError(
        f"{what} holds NaN or infinity: half precision overflows on this model; export it with "
        "precision fp32 or bf16"
    )
