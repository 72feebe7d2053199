"""What runs a bundle's graphs, and where: ONNX Runtime on a provider, or TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bundle.loading import Bundle
from ..bundle.plan import PlanRecord, Range, plan_name
from ..errors import BundleError, ProviderError
from .base import Session
from .device import Device, Host, open_gpu
from .ort import OrtSession
from .providers import check_precision, choose_operators, resolve_provider
from .tensorrt import TrtSession


@dataclass(frozen=True)
class Backend:
    """How to open a bundle's graphs.

    Attributes:
        name: as in a result's settings: the provider, or the engines' library and its version.
        device: where the sessions' arrays live.
        files: of every graph that there is, by its name in the contract.
        open: loads one of the files.
        rows: a batch may have, None for any number.
        least: side in pixels that a picture is padded to.
        operators: whose run the graphs, of `contract.OPERATORS`; None for engines.
    """

    name: str
    device: Device
    files: Mapping[str, Path]
    open: Callable[[Path], Session]
    rows: int | None = None
    least: int = 1
    operators: str | None = None


def choose_backend(
    bundle: Bundle,
    provider: str | None,
    threads: int | None,
    operators: str | None,
    profile: bool,
    cuda_graphs: bool,
    allow_cpu_nodes: bool,
) -> Backend:
    """The backend for a bundle: TensorRT if its engines were asked for, else ONNX Runtime.

    Raises:
        ProviderError: the provider is unknown or not installed, cannot compute in the bundle's
            precision, or goes with ONNX graphs only; there is no GPU or no CuPy for one; the
            operators asked for cannot be had.
        BundleError: the engines' profile does not hold the size the model was trained on.
    """
    if bundle.plans:
        if provider is not None or operators is not None:
            asked = f"operators {operators}" if provider is None else f"provider {provider}"
            raise ProviderError(
                f"{asked} is for ONNX Runtime, and {bundle.path} was opened by its engine "
                f"{plan_name(bundle.manifest.network)}; leave it out, or open {bundle.network}"
            )
        return _engines(bundle, cuda_graphs)
    provider = provider or "cpu"
    check_precision(bundle.manifest.precision, provider)
    device: Device = open_gpu() if resolve_provider(provider).gpu else Host()
    operators = choose_operators(operators, bundle, provider)

    def open_graph(path: Path) -> Session:
        with bundle.held():
            return OrtSession(path, provider, threads, profile, device, allow_cpu_nodes)

    return Backend(
        name=provider,
        device=device,
        files=bundle.graphs(operators),
        open=open_graph,
        operators=operators,
    )


def on_other_sessions(
    bundle: Bundle, open_graph: Callable[[Path], Session], device: Device | None = None
) -> Backend:
    """The backend of another runtime's sessions over the device's arrays, the host's by default."""
    return Backend("other", device or Host(), bundle.graphs(), open_graph)


def _engines(bundle: Bundle, cuda_graphs: bool) -> Backend:
    files = {graph: bundle.path / plan_name(graph) for graph in bundle.plans}
    records = {files[graph]: bundle.plans[graph] for graph in files}
    record = next(iter(records.values()))
    batch, size = record.profile["batch"], record.profile["size"]
    _check_native(bundle, record, size)
    device = open_gpu()

    def open_plan(path: Path) -> Session:
        with device.active():
            return TrtSession(path, records[path], device, cuda_graphs)

    name = f"{record.library} {record.library_version}"
    return Backend(name, device, files, open_plan, batch.max, size.min)


def _check_native(bundle: Bundle, record: PlanRecord, size: Range) -> None:
    native = bundle.manifest.image.native_size
    if not size.min <= native <= size.max:
        raise BundleError(
            f"the engines of {bundle.path} take pictures of {size} pixels a side, and the model "
            f"sees tiles of {native}; run `mdrt build {bundle.path} --library {record.library} "
            f"--profile size={native}`"
        )
