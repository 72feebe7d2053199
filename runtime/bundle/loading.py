"""Open a bundle: the directory that `mdrt export` wrote, trusted only after checking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.format import read_array

from ..disk.atomic import recover
from ..disk.hashes import file_state, sha256
from ..errors import BundleError
from .checks import check_hash, check_size
from .contract import (
    MANIFEST,
    NETWORKS,
    NOISE,
    ONNXRUNTIME,
    OPERATORS,
    FileRecord,
    Manifest,
    twin_name,
)
from .cuts import CUTS, graph_names, graph_of
from .external import find_external
from .plan import PlanRecord, check_plans, plan_name

_GRAPH: Final = ".onnx"
_MOST_BYTES: Final = 1 << 26  # of a manifest
_REMEDY: Final = "run `mdrt export` again"


@dataclass
class _Files:
    """The files of a bundle that are needed, each beside its record; `states` is what they were
    when they were checked."""

    directory: Path
    records: Mapping[str, FileRecord]
    verify: bool
    states: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Check every file that is not as it was last checked.

        Raises:
            BundleError: a file is missing, outside, changed, or leads to what is not listed.
        """
        states = {}
        for name, record in self.records.items():
            path = _inside(self.directory, name)
            check_size(path, record, _REMEDY)
            if self.states.get(name) != (state := file_state(path)):
                states[name] = state
        for name in states:
            if name.endswith(_GRAPH):
                _check_external(self.directory / name, self.records)
        if self.verify:
            for name in states:
                check_hash(self.directory / name, self.records[name], _REMEDY)
        self.states.update(states)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what is read inside be what was checked.

        Raises:
            BundleError: what `check` raises, or a file changed while it was read.
        """
        self.check()
        yield
        for name, state in self.states.items():
            path = self.directory / name
            if not path.exists() or file_state(path) != state:
                raise BundleError(f"{path} changed while it was read; open the bundle again")


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its directory, its manifest, and its engines' sidecars by graph if it was
    opened by an engine.

    What is read of it later, is read inside `with bundle.held()`: then it is what was checked.
    """

    path: Path
    manifest: Manifest
    files: _Files
    plans: Mapping[str, PlanRecord] = field(default_factory=dict)

    def held(self) -> AbstractContextManager[None]:
        """A context in which the files that are read are those that were checked.

        Files that changed since are checked again when it is entered; one that changes inside is
        an error when it is left.

        Raises:
            BundleError: a file changed.
        """
        return self.files.held()

    @property
    def network(self) -> Path:
        return self.path / self.manifest.network

    def graphs(self, operators: str = ONNXRUNTIME) -> dict[str, Path]:
        """The file of every graph, cuts included: its twin by `operators`, where there is one."""
        listed = self.manifest.files
        twins = {name: twin_name(name, operators) for name in graph_names(self.manifest)}
        return {
            name: self.path / (twin if twin in listed else name) for name, twin in twins.items()
        }

    @property
    def operators(self) -> list[str]:
        """Those that a graph of the bundle has a file for, the fastest first."""
        plain = self.graphs()
        return [one for one in OPERATORS if one == ONNXRUNTIME or self.graphs(one) != plain]

    def noise(self) -> npt.NDArray[np.float32]:
        """The fixed noise ε: (channels, N, N) float32, standard normal, where a model knows any.

        A larger canvas repeats it periodically, so that a latent cell's noise
        depends on its position alone.

        Raises:
            BundleError: the file is no array of that shape and type.
        """
        try:
            with self.held(), (self.path / NOISE).open("rb") as file:
                noise: npt.NDArray[np.float32] = read_array(file, allow_pickle=False)
        except BundleError:
            raise
        except Exception as error:  # NumPy's reader raises what its parser meets
            reason = " ".join(str(error).split())[:200]
            raise BundleError(
                f"{self.path / NOISE} cannot be read ({reason}); {_REMEDY}"
            ) from error
        channels = 3 if self.manifest.latent is None else self.manifest.latent.channels
        shaped = noise.ndim == 3 and noise.shape[0] == channels
        if not shaped or noise.dtype != np.float32 or noise.size == 0:
            raise BundleError(
                f"{self.path / NOISE} is {noise.dtype} {noise.shape}, expected float32 "
                f"({channels}, N, N); {_REMEDY}"
            )
        if not np.isfinite(noise).all():
            raise BundleError(f"{self.path / NOISE} has values that are not finite; {_REMEDY}")
        return noise


def load_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Open and check a bundle.

    Args:
        path: a bundle directory, or its network's graph or engine, as `unet.onnx` or `unet.plan`.
            By an engine, the whole network's or one of a cut, it is opened to be run by TensorRT:
            then the ONNX files need not be there, unless the engines were stripped of their
            weights.
        verify: hash every file (a large one only if it is not as it was last hashed); without it
            only presence and size are checked.

    Raises:
        BundleError: no bundle there, an unreadable manifest, another schema version, a file
            missing, truncated, changed or outside; a graph that loads what the manifest does not
            list; an engine that `check_plans` refuses.
    """
    path = Path(path)
    recover(path.absolute().parent)  # an exchange, or a build, that was killed on its way
    directory = _directory(path)
    recover(directory)
    manifest = _read_manifest(directory / MANIFEST)
    for name in _needed(manifest):
        if name not in manifest.files:
            raise BundleError(f"{directory / MANIFEST} does not list {name}; {_REMEDY}")
    if path != directory and path.name in NETWORKS and path.name != manifest.network:
        raise BundleError(f"{path} is no graph of {directory}; open {directory / manifest.network}")
    plans = check_plans(directory, manifest, path.name) if _is_engine(path) else {}
    stripped = any(record.options.stripped for record in plans.values())
    needed = {
        name: record
        for name, record in manifest.files.items()
        if stripped or not plans or not _is_graph(name, manifest)
    }
    files = _Files(directory, needed, verify)
    files.check()
    return Bundle(directory, manifest, files, plans)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `directory`, readable by people and by `load_bundle`."""
    text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def record_file(path: Path) -> FileRecord:
    """The record of a file as it is now."""
    return FileRecord(sha256(path), path.stat().st_size)


def _directory(path: Path) -> Path:
    """The bundle directory that `path` stands for."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise BundleError(f"no bundle at {str(path)[:80]!r}…: {error}") from error
    if path.is_dir():
        return path
    if _is_engine(path) or (path.name in NETWORKS and path.exists()):
        return path.parent
    if not path.exists():
        raise BundleError(f"no bundle at {path}; write one with `mdrt export MODEL -o {path}`")
    network = NETWORKS[0]
    raise BundleError(
        f"{path} is a file, expected a bundle directory, or its network, as {network} or "
        f"{plan_name(network)}"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        return Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent} has no {MANIFEST}, so it is no bundle; "
            f"write one with `mdrt export MODEL -o BUNDLE`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def _needed(manifest: Manifest) -> Iterator[str]:
    """The files that a bundle cannot be without."""
    yield from graph_names(manifest)
    yield from (text.tokenizer for text in manifest.texts)
    if manifest.noise:
        yield NOISE


def _is_engine(path: Path) -> bool:
    """Whether a path is that of an engine of a network or of a cut, if it exists."""
    return any(path.name == plan_name(graph_of(cut, n)) for n in NETWORKS for cut in CUTS)


def _is_graph(name: str, manifest: Manifest) -> bool:
    """Whether a file is a graph, its twin, or the weights of one."""
    return any(name.startswith(graph.removesuffix("onnx")) for graph in graph_names(manifest))


def _inside(directory: Path, name: str) -> Path:
    """Where a listed file is, seen to be inside the bundle, its links followed."""
    relative, path = PurePosixPath(name), directory / name
    if relative.is_absolute() or ".." in relative.parts or not name.isprintable():
        raise BundleError(f"{directory / MANIFEST} lists {name!r}, which lies outside; {_REMEDY}")
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(directory)):
        raise BundleError(
            f"{path} is a link to {real}, outside the bundle; copy it with its files, "
            f"`cp -rL {directory} COPY`, and open the copy"
        )
    return path


def _check_external(graph: Path, records: Mapping[str, FileRecord]) -> None:
    """See that all a graph loads from other files is listed, and in them.

    What ONNX Runtime itself refuses depends on its version: 1.20 opens any file, 1.32 any inside.
    """
    try:
        found = find_external(graph)
    except OSError as error:
        raise BundleError(f"{graph} cannot be read ({error.strerror}); {_REMEDY}") from error
    for external in found:
        record = records.get(external.location)
        if record is None:
            raise BundleError(
                f"{graph} loads weights from {external.location!r}, which {MANIFEST} does not "
                f"list; {_REMEDY}"
            )
        end = external.offset + external.length
        if end > record.bytes:
            raise BundleError(
                f"{graph} loads bytes {external.offset} to {end} of {external.location}, which "
                f"has {record.bytes}; {_REMEDY}"
            )
