"""TensorRT engines beside the graphs they were built from, trusted only after checking.

`mdrt build` adds `unet.plan` and its sidecar `unet.plan.json` beside `unet.onnx`, and the same for
the other graphs and for the cuts that are asked for. An engine is good for one version of one
library, one profile and one ONNX file. The manifest lists what export wrote and is sealed; engines
come and go after it, so each is vouched for by its own sidecar, which holds the hashes of the files
it was built from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Final

from ..errors import BundleError
from .checks import check_hash, check_size
from .contract import NETWORKS, FileRecord, Manifest, weights_name
from .cuts import CUTS, WHOLE, cuts, graph_names, graph_of
from .typed import Document, plain

SCHEMA_VERSION: Final = 2

LIBRARIES: Final[Mapping[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Libraries that build engines, by the name pip knows → the Python module."""


_MOST: Final = 1 << 20  # rows or pixels of a profile


@dataclass(frozen=True)
class Range:
    """What one dimension may be at run time, both ends included; `opt` is tuned for."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        fixed = self.min == self.max
        return f"{self.opt}" if fixed else f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class Shapes:
    """One input's shapes at a profile's three points."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BuildOptions:
    """What the builder was told, as it read it back: `workspace` in bytes."""

    workspace: int
    optimization_level: int
    weight_streaming: bool
    stripped: bool


@dataclass(frozen=True)
class Kernels:
    """What the builder made of a network's layers, all 0 where it does not tell.

    Attributes:
        count: layers of the engine, after fusion.
        fused: softmaxes that are one kernel with QKᵀ before and the product with V after them.
        split: softmaxes that are not: their logits go through memory.
    """

    count: int
    fused: int
    split: int


@dataclass(frozen=True)
class Proof:
    """What was seen of an engine when it ran beside its graph.

    Attributes:
        gpu: that it ran on, "" where it could not run.
        outputs: compared, over all shapes of the inputs.
        error: the largest max|a − b| / max|b| of an output.
        tolerance: what that may be; 0 where values were only seen to be finite.
        reason: why it could not run.
    """

    gpu: str = ""
    outputs: int = 0
    error: float = 0.0
    tolerance: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class PlanRecord:
    """A sidecar: what an engine is and what it was built from.

    Attributes:
        graph: the ONNX file's name in the bundle.
        sources: file name → SHA-256 of that file and of the file of its weights, if any.
        library: a key of `LIBRARIES`.
        library_version: of the library that built it, the only one that loads it.
        created_by: the version of mdrt.
        precision: what the graph computes in, as in the manifest.
        profile: dimension → range; `batch` counts rows, `size` is both image sides in pixels.
        shapes: input → its shapes under that profile.
        compute_capabilities: GPUs it runs on, as "8.9"; none named means the library's
            default, for tensorrt-rtx every one from Ampere on.
        options: what else the builder was told.
        layers: in the network before the builder fused any.
        kernels: what became of them.
        plan: the engine file itself.
        seconds: the build took.
        proof: that the engine is its graph.
    """

    graph: str
    sources: Mapping[str, str]
    library: str
    library_version: str
    created_by: str
    precision: str
    profile: Mapping[str, Range]
    shapes: Mapping[str, Shapes]
    compute_capabilities: tuple[str, ...]
    options: BuildOptions
    layers: int
    kernels: Kernels
    plan: FileRecord
    seconds: float
    proof: Proof
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """The sidecar as plain JSON values."""
        values: dict[str, Any] = plain(self)
        return {"schema_version": values.pop("schema_version"), **values}


def plan_name(graph: str) -> str:
    """The file name of the engine of a graph."""
    return f"{graph.removesuffix('.onnx')}.plan"


def sidecar_name(graph: str) -> str:
    """The file name of the sidecar of a graph's engine."""
    return f"{plan_name(graph)}.json"


def cache_name(graph: str, compute_capability: str) -> str:
    """The file name of what an engine's library compiled of it for a GPU."""
    return f"{plan_name(graph)}.{compute_capability}.cache"


def build_command(directory: Path, record: PlanRecord) -> str:
    """What to tell a user whose engine has to be built again, as it was."""
    profile = "".join(f" --profile {name}={span}" for name, span in record.profile.items())
    cuts_there = _cuts(directory, record.graph)
    return f"run `mdrt build {directory} --library {record.library}{profile}{cuts_there}`"


def _cuts(directory: Path, graph: str) -> str:
    """The option that asks for the cuts whose engines are there, and for that of `graph` if it is
    one; "" for the whole alone."""
    wanted = [
        cut
        for cut in CUTS
        for own in (graph_of(cut, network) for network in NETWORKS)
        if own == graph or (directory / plan_name(own)).exists()
    ]
    return "" if wanted in ([], [WHOLE]) else f" --cuts {','.join(wanted)}"


def sources(manifest: Manifest, graph: str) -> dict[str, str]:
    """What a graph consists of: file name → SHA-256; large weights are a file of their own."""
    names = (graph, weights_name(graph))
    return {name: manifest.files[name].sha256 for name in names if name in manifest.files}


def installed_version(library: str) -> str | None:
    """The version of a library, None where it is not installed; nothing is imported."""
    found = packages_distributions().get(LIBRARIES[library])
    return version(found[0]) if found else None


def check_plans(directory: Path, manifest: Manifest, opened: str) -> dict[str, PlanRecord]:
    """Check the engines of a bundle before any is loaded.

    Args:
        directory: the bundle's, its manifest checked.
        manifest: the bundle's.
        opened: the file name of the engine that it was opened by.

    Returns:
        The sidecar of each graph's engine; of the network's cuts, of those that are there.

    Raises:
        BundleError: an engine or its sidecar is missing, truncated or changed, was built from
            another graph, or by a library or a version of it that is not installed.
    """
    of_network = [cut.graph for cut in cuts(manifest)]
    there = [
        graph
        for graph in graph_names(manifest)
        if graph not in of_network
        or plan_name(graph) == opened
        or (directory / plan_name(graph)).exists()
    ]
    if opened not in map(plan_name, there):
        raise BundleError(
            f"{directory / opened} is of a cut that {manifest.model_id} does not have; open one of "
            f"{', '.join(map(plan_name, of_network))}"
        )
    return {graph: _check_plan(directory, manifest, graph) for graph in there}


def _check_plan(directory: Path, manifest: Manifest, graph: str) -> PlanRecord:
    path = directory / plan_name(graph)
    record = read_plan(directory, graph)
    remedy = build_command(directory, record)
    check_size(path, record.plan, remedy)
    check_hash(path, record.plan, remedy)
    if record.graph != graph or record.sources != sources(manifest, graph):
        raise BundleError(f"{path} was built from another {graph} than the one beside it; {remedy}")
    installed = installed_version(record.library)
    if installed is None:
        raise BundleError(
            f"{path} needs {record.library} {record.library_version}, which is not installed; "
            f"run `pip install {record.library}=={record.library_version}`, or "
            f"`mdrt build {directory}` with another library"
        )
    if installed != record.library_version:
        raise BundleError(
            f"{path} was built by {record.library} {record.library_version}, and {installed} is "
            f"installed; {remedy}"
        )
    return record


def read_plan(directory: Path, graph: str) -> PlanRecord:
    """The sidecar of a graph's engine, its values typed and known."""
    plan, path = directory / plan_name(graph), directory / sidecar_name(graph)
    remedy = f"run `mdrt build {directory}{_cuts(directory, graph)}`"
    if not plan.exists():
        raise BundleError(f"{plan} does not exist; {remedy}")
    if not path.exists():
        raise BundleError(
            f"{plan} has no sidecar {path.name}, so nothing says what it was built from; {remedy}"
        )
    document = Document(str(path), remedy)
    try:
        values = document.read_object(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {remedy}") from error
    _check_schema(document, values)
    record = document.build(PlanRecord, values)
    document.require(record.library in LIBRARIES, "library", record.library, tuple(LIBRARIES))
    named = set(record.profile) == {"batch", "size"}
    document.require(named, "profile", sorted(record.profile), "batch and size")
    for name, span in record.profile.items():
        ordered = 1 <= span.min <= span.opt <= span.max <= _MOST
        document.require(ordered, f"profile.{name}", span, f"1 to {_MOST}, in order")
    return record


def _check_schema(document: Document, values: dict[str, Any]) -> None:
    found = values.get("schema_version")
    if type(found) is not int or found != SCHEMA_VERSION:
        raise BundleError(
            f"{document.name} has schema version {found!r}, this mdrt reads version "
            f"{SCHEMA_VERSION}; {document.remedy}"
        )
