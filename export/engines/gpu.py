"""The GPU of this machine, asked of NVIDIA's driver."""

from __future__ import annotations

import ctypes
from typing import Final

from ...runtime.errors import EngineError

_DRIVER: Final = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_* of the driver's cuda.h


def compute_capability() -> str:
    """What the first GPU can do, as "8.9"; the one that a library takes unless told otherwise.

    Raises:
        EngineError: there is no driver or no GPU.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise _no_gpu(f"{_DRIVER} is not there") from error
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    ):
        if status != 0:
            raise _no_gpu(f"the driver answers {status}")
    return f"{major.value}.{minor.value}"


def _no_gpu(reason: str) -> EngineError:
    return EngineError(
        f"tensorrt and --strip-weights build on the GPU that runs the engine, and none is found "
        f"({reason}); take --library tensorrt-rtx without --strip-weights"
    )
