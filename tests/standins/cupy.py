"""A stand-in for CuPy without a GPU: NumPy computes, and what CuPy would refuse is refused.

- An array of the host in the place of one of the device's is a TypeError.
- `empty` gives memory with an address of its own, filled with NaN, known as long as it lives: an
  engine's addresses can be checked against it. `MEMORY.limit` makes it run out.
- Whatever waits for the device is noted in `WAITED`.
- While a stream is captured, nothing but what can be captured may happen.
- `RawModule` runs the product's CUDA source (`host_kernels`).
"""

from __future__ import annotations

import ctypes
import math
import os
import time
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np

from .host_kernels import LAUNCHED, SANITIZE, RawModule

__all__ = ["LAUNCHED", "MEMORY", "NAME", "SANITIZE", "WAITED", "RawModule", "cupy"]

NAME: Final = "cupy"  # as array_module sees it
ALIGNMENT: Final = 256  # bytes, of everything that is allocated
WAITED: Final[list[str]] = []
"""What made the host wait for the device, in order."""


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class Memory:
    """The device's memory: what `empty` gave and nobody has dropped."""

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}  # address → bytes
        self.limit: int | None = None

    def allocate(self, shape: Any, dtype: Any) -> ndarray:
        nbytes = max(1, math.prod(shape) * dtype.itemsize)
        refuse_in_capture("memory was allocated")
        if self.limit is not None and sum(self.blocks.values()) + nbytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
        spare = 0 if SANITIZE in os.environ else ALIGNMENT  # AddressSanitizer sees its very end
        raw = np.full(nbytes + spare, 0xFF, np.uint8)
        skip = -raw.ctypes.data % ALIGNMENT if spare else 0
        start = raw.ctypes.data + skip
        self.blocks[start] = nbytes
        weakref.finalize(raw, self.blocks.pop, start)
        used = math.prod(shape) * dtype.itemsize
        array: ndarray = raw[skip : skip + used].view(dtype).reshape(shape).view(ndarray)
        return array

    def check(self, start: int, nbytes: int, what: str) -> None:
        """See that a range lies in one block that is still allocated."""
        assert start, f"{what} has no address"
        assert start % ALIGNMENT == 0, f"{what} is misaligned"
        found = [
            size - (start - block)
            for block, size in self.blocks.items()
            if block <= start < block + size
        ]
        assert found, f"{what} lies in no memory of the device that is allocated"
        assert found[0] >= nbytes, f"{what} takes {nbytes} bytes, {found[0]} are allocated"


MEMORY: Final = Memory()
_capturing: list[Stream] = []


def refuse_in_capture(what: str) -> None:
    if _capturing:
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} during capture")


def _waits(what: str) -> None:
    refuse_in_capture(what)
    WAITED.append(what)


class ndarray(np.ndarray):
    """An array of the device."""

    __module__ = NAME

    def __new__(cls, shape: Any, dtype: Any = float, memptr: Any = None) -> ndarray:
        if memptr is None:
            return MEMORY.allocate(_shape(shape), np.dtype(dtype))
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        raw = (ctypes.c_char * nbytes).from_address(memptr.mem.ptr)
        raw.owner = memptr.mem.owner
        array: ndarray = np.frombuffer(raw, dtype).reshape(shape).view(ndarray)
        return array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        refuse_in_capture(ufunc.__name__)
        out = options.pop("out", ())
        bare = {key: _bare(value) for key, value in options.items()}
        if out:
            bare["out"] = tuple(map(_bare, out))
        result = getattr(ufunc, method)(*map(_bare, inputs), **bare)
        return out[0] if out else _device(result)

    def __array_function__(self, function: Any, *rest: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was given an array of the device")

    def __getitem__(self, key: Any) -> Any:
        return _device(np.asarray(self)[_bare_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        refuse_in_capture("a copy")
        np.asarray(self)[_bare_index(key)] = _bare(value)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> Any:
        if blocking:
            _waits("get")
        if out is None:
            return np.array(self)
        if not isinstance(_owner(out), Pinned):
            raise TypeError("a copy to memory that is not pinned")
        out[...] = np.asarray(self)
        return out

    def set(self, values: np.ndarray, stream: Any) -> None:
        """The copy is done when the stream is waited for: what it is from must stay till then."""
        if not isinstance(_owner(values), Pinned):
            raise TypeError("a copy from memory that is not pinned")
        refuse_in_capture("an upload")
        np.asarray(self)[...] = values
        stream.reading.append(weakref.ref(_owner(values)))

    def _scalar(name: str) -> Any:  # type: ignore[misc]
        def read(self: ndarray, *arguments: Any) -> Any:
            _waits(name)
            return getattr(np.asarray(self), name)(*arguments)

        return read

    __bool__, __float__, __int__, __index__ = map(
        _scalar, ("__bool__", "__float__", "__int__", "__index__")
    )
    item, tolist = map(_scalar, ("item", "tolist"))


for _method in ("argmax", "argmin", "argsort", "cumsum", "take", "astype", "copy", "nonzero"):

    def _wrapped(self: Any, *arguments: Any, _name: str = _method, **options: Any) -> Any:
        return _device(getattr(np.asarray(self), _name)(*map(_bare, arguments), **options))

    setattr(ndarray, _method, _wrapped)


def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int | np.integer) else tuple(shape)


def _device(value: Any) -> Any:
    """Results as CuPy gives them: arrays of its own, without dimensions too."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).view(ndarray)
    if isinstance(value, tuple):
        return tuple(map(_device, value))
    return value


def _bare(value: Any) -> Any:
    """NumPy's view of an argument; an array of the host is refused as CuPy does."""
    if isinstance(value, ndarray):
        return np.asarray(value)
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(map(_bare, value))
    return value


def _bare_index(key: Any) -> Any:
    """An index; CuPy copies one of the host to the device itself."""
    if isinstance(key, tuple):
        return tuple(map(_bare_index, key))
    return np.asarray(key) if isinstance(key, ndarray) else key


class Stream:
    """A stream: what is put on it is done at once, or recorded while it is captured."""

    known: Final[weakref.WeakValueDictionary[int, Stream]] = weakref.WeakValueDictionary()

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = id(self)
        self.known[self.ptr] = self
        self.recorded: list[Callable[[], None]] = []
        self.reading: list[Callable[[], Any]] = []  # pinned memory, until it is waited for

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        _waits("synchronize")
        gone = [source for source in self.reading if source() is None]
        assert not gone, "pinned memory was given back while the device was reading it"
        self.reading.clear()
        for event in Event.pending:
            event.done = True
        Event.pending.clear()

    def begin_capture(self) -> None:
        refuse_in_capture("another capture")
        _capturing.append(self)
        self.recorded = []

    def end_capture(self) -> Graph:
        if self not in _capturing:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnmatched")
        _capturing.remove(self)
        return Graph(self.recorded)

    @property
    def capturing(self) -> bool:
        return self in _capturing


class Graph:
    """What was captured; every launch does it again."""

    launched: Final[list[Graph]] = []

    def __init__(self, recorded: list[Callable[[], None]]) -> None:
        self.recorded = recorded

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        refuse_in_capture("a graph was launched")
        self.launched.append(self)
        for step in self.recorded:
            step()


class Event:
    """A moment on a stream, known once the stream was waited for."""

    pending: Final[list[Event]] = []

    def record(self, stream: Stream | None = None) -> None:
        refuse_in_capture("an event was recorded")
        self.at, self.done = time.perf_counter(), False
        self.pending.append(self)

    def synchronize(self) -> None:
        for event in self.pending[: self.pending.index(self) + 1]:
            event.done = True


def _elapsed(start: Event, end: Event) -> float:
    if not (start.done and end.done):
        raise CUDARuntimeError("cudaErrorNotReady: device not ready")
    return 1000 * (end.at - start.at)


class Pinned(bytearray):
    """Memory of the host that the device reaches."""


def _asarray(value: Any, dtype: Any = None) -> ndarray:
    """As CuPy's: the one function that takes an array of the host, and copies it."""
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype)
    refuse_in_capture("an upload")
    return _device(np.array(value, dtype))


def _owner(array: Any) -> Any:
    """What an array's memory belongs to."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


class Namespace(ModuleType):
    """NumPy's functions on this module's arrays alone."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, ModuleType):
            return Namespace(f"{NAME}.{name}", found)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            refuse_in_capture(name)
            bare = {key: _bare(value) for key, value in options.items()}
            return _device(found(*map(_bare, arguments), **bare))

        return call


class _Runtime(SimpleNamespace):
    CUDARuntimeError = CUDARuntimeError


def _module() -> Any:
    module = Namespace(NAME, np)
    module.__version__ = "14.0.0"
    module.ndarray = ndarray
    module.RawModule = RawModule
    module.asarray = module.array = _asarray
    module.asnumpy = lambda array: array.get()
    module.empty = lambda shape, dtype=float: MEMORY.allocate(_shape(shape), np.dtype(dtype))
    module.ascontiguousarray = lambda array, dtype=None: _device(
        np.ascontiguousarray(_bare(array), dtype)
    )
    module.get_default_memory_pool = lambda: SimpleNamespace(
        free_all_blocks=lambda: None, total_bytes=lambda: 0
    )
    module.cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        Device=lambda: SimpleNamespace(compute_capability="89"),
        get_elapsed_time=_elapsed,
        alloc_pinned_memory=Pinned,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=_Runtime(
            runtimeGetVersion=lambda: 12090,
            driverGetVersion=lambda: 13000,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {"name": b"a stand-in"},
        ),
        UnownedMemory=lambda ptr, size, owner: SimpleNamespace(ptr=ptr, size=size, owner=owner),
        MemoryPointer=lambda mem, offset: SimpleNamespace(mem=mem, offset=offset),
    )
    return module


cupy: Final = _module()
