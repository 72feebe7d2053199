"""The GPU of this machine, asked of NVIDIA's driver."""

from __future__ import annotations

import ctypes
from typing import Final

from ...runtime.errors import EngineError
from .options import NOT_OF_RTX, refuse_for_rtx

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


def check_gpu(library: str) -> None:
    """See that a library has kernels for the GPU of this machine, if there is one.

    Raises:
        EngineError: tensorrt-rtx has none.
    """
    if library != "tensorrt-rtx":
        return
    try:
        found = compute_capability()
    except EngineError:
        return  # built here for another machine
    if found in NOT_OF_RTX:
        refuse_for_rtx(found, "the GPU of this machine")


def _no_gpu(reason: str) -> EngineError:
    return EngineError(
        "tensorrt builds, and weights are stripped, on the GPU that runs the engine, and none is "
        f"found ({reason}); build with library tensorrt-rtx, weights and all",
        library="tensorrt-rtx",
    )
