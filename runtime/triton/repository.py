"""Write a model repository: folders that a Triton server loads as they are.

One model answers pictures: it runs mdrt in Triton's python backend. Its networks either run inside
it, which needs no other backend, or are models of their own on the onnxruntime or tensorrt backend
that it calls, so that the server batches the tiles of all requests together.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from ..bundle.contract import MANIFEST, Manifest
from ..bundle.cuts import cuts, graph_names
from ..bundle.external import find_external
from ..bundle.loading import Bundle, load_bundle
from ..bundle.plan import PlanRecord, plan_name, read_plan, sidecar_name
from ..disk.folders import exchange, rename_new
from ..errors import BundleError, OutputError
from .config import BATCH, MODEL, asked_config, network_config, network_name

Networks: TypeAlias = Literal["inside", "onnxruntime", "tensorrt"]

BUNDLE: Final = "bundle"
"""The bundle's folder beside the model that reads it."""

WARMUP: Final = "warmup"

_MARK: Final = "mdrt-triton.json"
"""Says that a folder is a repository that mdrt wrote."""

_CODE: Final = '''"""Written by `mdrt triton`; the server's Python needs mdrt installed."""

from mdrt.runtime.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    engine: str | Path,
    repository: Path,
    networks: Networks = "inside",
    *,
    settings: Mapping[str, str] | None = None,
    instances: int = 1,
    gpu: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Write a repository, whole or not at all.

    Args:
        engine: the bundle, as a `Segmenter` takes it.
        repository: the folder; one that an earlier call wrote is replaced.
        networks: what runs the bundle's graphs.
        settings: what the model is told when it is loaded, as text: head, settings (JSON), classes,
            provider.
        instances: of the model that clients ask.
        gpu: whether networks of their own run on the server's GPUs.
        overwrite: whether another folder may be replaced.

    Returns:
        The models' names.

    Raises:
        BundleError: the bundle is none, or has no engines for Triton where they are asked for.
        OutputError: the folder is of other origin, or the disk refused.
    """
    bundle = load_bundle(engine)
    plans = _plans(bundle) if networks == "tensorrt" else {}
    graphs = [] if networks == "inside" else graph_names(bundle.manifest)
    graphs = [graph for graph in graphs if not plans or graph in plans]
    if repository.exists() and not (repository / _MARK).exists() and not overwrite:
        raise OutputError(
            f"{repository} exists and is no model repository of mdrt; choose another folder, or "
            "allow it to be overwritten",
            overwrite=True,
        )
    try:
        repository.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f".{repository.name}.", dir=repository.parent))
        aside.chmod(0o755)
        try:
            rows = min([plan.profile["batch"].max for plan in plans.values()], default=BATCH)
            told = {**(settings or {}), "rows": str(rows)}
            _asked(aside, bundle, told, instances, graphs)
            for graph in graphs:
                _network(aside, bundle, graph, networks, plans.get(graph), gpu)
            (aside / _MARK).write_text(json.dumps({"bundle": bundle.manifest.sha256}) + "\n")
            if repository.exists():
                exchange(aside, repository)
            else:
                rename_new(aside, repository)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{repository} cannot be written: {error.strerror or error}") from error
    return [MODEL, *map(network_name, graphs)]


def _asked(
    repository: Path,
    bundle: Bundle,
    settings: Mapping[str, str],
    instances: int,
    graphs: list[str],
) -> None:
    """The model that clients ask, with the bundle and a picture to begin with."""
    folder = repository / MODEL
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / WARMUP).mkdir()
    calls = [network_name(graph) for graph in graphs]
    warmup = {"image": _picture(bundle.manifest)}
    if not bundle.manifest.classes and "classes" not in settings:
        warmup["segments"] = b"2"  # there are no names to ask for
    (folder / "config.pbtxt").write_text(
        asked_config(settings, instances, calls, list(warmup)), encoding="utf-8"
    )
    (version / "model.py").write_text(_CODE, encoding="utf-8")
    for name, value in warmup.items():
        (folder / WARMUP / name).write_bytes(_as_element(value))
    for name in (MANIFEST, *bundle.manifest.files):
        _place(bundle.path / name, version / BUNDLE / name)


def _network(
    repository: Path,
    bundle: Bundle,
    graph: str,
    networks: Networks,
    plan: PlanRecord | None,
    gpu: bool,
) -> None:
    """The model of one graph."""
    folder = repository / network_name(graph)
    file = graph if plan is None else plan_name(graph)
    batch = BATCH if plan is None else plan.profile["batch"].max
    kind = "KIND_GPU" if gpu or plan is not None else "KIND_CPU"
    if plan is None:
        for name in (graph, *_weights(bundle, graph)):
            _place_again(repository / MODEL / "1" / BUNDLE / name, folder / "1" / name)
    else:
        _place(bundle.path / file, folder / "1" / file)
    (folder / "config.pbtxt").write_text(
        network_config(bundle.manifest, graph, file, networks, batch, kind), encoding="utf-8"
    )


def _weights(bundle: Bundle, graph: str) -> set[str]:
    """The files beside it that a graph loads."""
    return {external.location for external in find_external(bundle.path / graph)}


def _plans(bundle: Bundle) -> dict[str, PlanRecord]:
    """The engines that there are.

    Raises:
        BundleError: one of a graph that is needed is missing, or none that Triton loads.
    """
    of_unet = [cut.graph for cut in cuts(bundle.manifest) if cut.graph != bundle.manifest.network]
    found = {
        graph: read_plan(bundle.path, graph)
        for graph in graph_names(bundle.manifest)
        if graph not in of_unet or (bundle.path / sidecar_name(graph)).exists()
    }
    for graph, record in found.items():
        if record.library != "tensorrt":
            raise BundleError(
                f"{bundle.path / plan_name(graph)} is an engine of {record.library}, and Triton's "
                f"tensorrt backend loads those of tensorrt; run `mdrt build {bundle.path} "
                "--library tensorrt` with the version that your server has"
            )
    return found


def _place(source: Path, target: Path) -> None:
    """A file of the bundle in the repository. Never a second name for the bundle's own: onnx
    refuses to read weights that have one, and a change there would change what is served."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _place_again(placed: Path, target: Path) -> None:
    """A file of the repository once more: the same one where the disk allows, for weights are
    large, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(placed, target)
    except OSError:
        shutil.copyfile(placed, target)


def _picture(manifest: Manifest) -> bytes:
    """A grey picture of the native size, as a file."""
    side, file = manifest.image.native_size, io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 127, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _as_element(value: bytes) -> bytes:
    """As Triton reads elements of TYPE_STRING from a file: their length before them."""
    return len(value).to_bytes(4, "little") + value


def parameters(
    head: str | None, settings: Mapping[str, Any], **others: str | None
) -> dict[str, str]:
    """What the model is told when it is loaded, as text."""
    told = {"head": head, "settings": json.dumps(dict(settings)), **others}
    return {name: value for name, value in told.items() if value}
