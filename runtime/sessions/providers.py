"""ONNX Runtime's execution providers: which there are, what each needs, whether it is installed."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from ...kernels.cpu import has_tiles, operator_library
from ..bundle.contract import BF16X3, ONNXRUNTIME
from ..bundle.loading import Bundle
from ..disk.hashes import cache_folder
from ..errors import ProviderError
from .onnx_runtime import install_command, onnx_runtime
from .placement import CPU


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers.

    Attributes:
        name: ONNX Runtime's own name for it.
        extra: of mdrt, that brings it.
        gpu: whether its arrays are CuPy's.
        options: its own options, beside the stream of a GPU.
        then: the provider that takes the nodes it cannot run, "" for none but the CPU.
        plugin: a module that brings it to any ONNX Runtime, "" for none.
    """

    name: str
    extra: str
    gpu: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    then: str = ""
    plugin: str = ""


def _kept(option: str, name: str, **more: str) -> dict[str, str]:
    """The options by which a provider keeps what it compiles, which takes minutes to make again;
    none where nothing is kept."""
    folder = cache_folder()
    return {} if folder is None else {option: str(folder / name), **more}


_CUDA: Final = "CUDAExecutionProvider"

PROVIDERS: Final[Mapping[str, Provider]] = {
    "cpu": Provider(CPU, "cpu", gpu=False),
    "cuda": Provider(_CUDA, "cuda"),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "gpu",
        options=_kept("trt_engine_cache_path", "onnxruntime-tensorrt", trt_engine_cache_enable="1"),
        then=_CUDA,
    ),
    "nvtensorrtrtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        "rtx",
        options=_kept("nv_runtime_cache_path", "onnxruntime-tensorrt-rtx"),
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "openvino",
        gpu=False,
        # else it computes in bfloat16 wherever the processor can, whatever the graph says
        options={"load_config": json.dumps({"CPU": {"EXECUTION_MODE_HINT": "ACCURACY"}})},
        plugin="onnxruntime_ep_openvino",
    ),
}
"""By the name it is asked for with."""


def resolve_provider(provider: str) -> Provider:
    """A provider that is installed.

    Raises:
        ProviderError: unknown, or not part of the installed ONNX Runtime, or ONNX Runtime is not
            installed or twice so.
    """
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}; choose one of {', '.join(PROVIDERS)}")
    found, ort = PROVIDERS[provider], onnx_runtime()
    if not (
        _plug_in(found.plugin) if found.plugin else found.name in ort.get_available_providers()
    ):
        raise ProviderError(
            f"provider {provider!r} is not in the installed ONNX Runtime; "
            f"run {install_command(found.extra)}, or use provider cpu",
            provider="cpu",
        )
    if found.plugin and plugin_device(found) is None:
        raise ProviderError(
            f"{found.plugin} is installed and finds no device that it can run on; use provider cpu",
            provider="cpu",
        )
    return found


@cache
def _plug_in(module: str) -> bool:
    """Bring a provider from its own package into ONNX Runtime; False where it is not installed.

    Raises:
        ProviderError: the package is there and cannot be loaded.
    """
    try:
        plugin = importlib.import_module(module)  # which loads libraries of its own
        onnx_runtime().register_execution_provider_library(
            plugin.get_ep_name(), plugin.get_library_path()
        )
    except ModuleNotFoundError:
        return False
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise ProviderError(
            f"{module} is installed but cannot be loaded: {first_line(error)}; "
            "check its libraries (for a GPU: the driver and CUDA), or use provider cpu",
            provider="cpu",
        ) from error
    return True


def plugin_device(provider: Provider) -> Any:
    """What a plugged-in provider runs on, a GPU or the CPU as `gpu` says; None: there is none."""
    ort = onnx_runtime()
    kind = ort.OrtHardwareDeviceType.GPU if provider.gpu else ort.OrtHardwareDeviceType.CPU
    devices = (device for device in ort.get_ep_devices() if device.ep_name == provider.name)
    return next((device for device in devices if device.device.type == kind), None)


def preload(provider: Provider) -> str:
    """Load the libraries that pip put beside ONNX Runtime, where its loader does not look.

    Returns:
        What could not be found, in a line; mostly "".
    """
    if not provider.gpu or provider.plugin:
        return ""
    said = io.StringIO()
    with redirect_stdout(said):
        getattr(onnx_runtime(), "preload_dlls", lambda: None)()  # since 1.21
        if provider.then:
            with suppress(ImportError, OSError):  # its own package loads TensorRT's libraries
                importlib.import_module("tensorrt")
    return said.getvalue().strip().partition("\n")[0]


def check_precision(precision: str, provider: str) -> None:
    """See that a provider has kernels for what a bundle's graphs compute in.

    Raises:
        ProviderError: bfloat16, of which ONNX Runtime has few on the CPU.
    """
    if precision == "bf16" and provider == "cpu":
        raise ProviderError(
            "the bundle computes in bf16, which ONNX Runtime cannot on a CPU; use provider cuda or "
            "tensorrt, or export it in precision fp32 (half as large with weights in fp16)",
            provider="cuda",
        )


def choose_operators(asked: str | None, bundle: Bundle, provider: str) -> str:
    """Whose operators run a bundle's graphs, of `OPERATORS`; None takes the fastest that can.

    `bf16x3` is taken where the processor has tiles for its products; asked for by name it runs
    everywhere, on others many times more slowly.

    Raises:
        ProviderError: asked for, and something is missing.
    """
    if asked == ONNXRUNTIME:
        return asked
    reasons = {
        "they run on the CPU; use provider cpu": provider != "cpu",
        "mdrt was installed without a C++ compiler; install one, then mdrt again": (
            operator_library() is None
        ),
        f"{bundle.path} has no graphs for them; run `mdrt export` again": (
            bundle.operators == [ONNXRUNTIME] if asked is None else asked not in bundle.operators
        ),
    }
    missing = [reason for reason, true in reasons.items() if true]
    if missing and asked:
        raise ProviderError(f"no {asked} operators: {missing[0]}")
    if missing:
        return ONNXRUNTIME
    return asked or next(one for one in bundle.operators if one != BF16X3 or has_tiles())


def first_line(error: Exception) -> str:
    """The first line of what a library said."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
