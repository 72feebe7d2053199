"""The engines of a bundle: built aside one by one, then put beside their graphs together."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ... import __version__
from ...runtime.bundle.contract import MANIFEST, FileRecord
from ...runtime.bundle.cuts import graph_names
from ...runtime.bundle.loading import Bundle
from ...runtime.bundle.plan import PlanRecord, Proof, Range, plan_name, sidecar_name, sources
from ...runtime.disk.atomic import recover, settle_tree, together
from ...runtime.errors import EngineError, OutputError
from ...runtime.sessions.device import Gpu
from ...runtime.sessions.library import Library
from .builder import build_engine
from .gpu import check_gpu, compute_capability
from .monitor import Phases, Unwatched
from .options import EngineOptions
from .profiles import complete, input_shapes
from .proof import find_gpu, prove_engine


def build_engines(
    bundle: Bundle, library: Library, options: EngineOptions, phases: Phases | None = None
) -> dict[str, PlanRecord]:
    """Build the engine of every graph of a bundle, of the network those of the cuts asked for;
    twins for CPUs are passed over.

    Engines of other cuts are removed: they may be of another library, or for other shapes.

    Args:
        bundle: checked, every file hashed: the sidecars repeat its hashes.
        library: what builds.
        options: what to build for.
        phases: told of the builder's, and of the proofs.

    Returns:
        Each graph's sidecar, as it now lies beside the engine.

    Raises:
        EngineError: an option is impossible, the library refused, another build is at work in the
            bundle, or an engine that this machine's GPU can run is not its graph. Earlier engines
            stay.
        BundleError: a graph changed while it was built from. They stay then too.
    """
    options.check(library.name)
    graphs = options.graphs(bundle.manifest)
    profile = complete(options.profile, bundle.manifest)
    capabilities = options.compute_capabilities
    if library.name == "tensorrt" or options.strip_weights:
        capabilities = (compute_capability(),)
    elif not capabilities:
        check_gpu(library.name)
    job = _EngineJob(
        bundle,
        library,
        options,
        profile,
        capabilities,
        phases or Unwatched(),
        find_gpu(capabilities),
    )
    try:
        with _alone(bundle.path):
            recover(bundle.path)
            with together(bundle.path) as moving:
                with bundle.held():  # the sidecars say what was read: what the manifest lists
                    records = {graph: job.build(graph, moving.folder) for graph in graphs}
                settle_tree(moving.folder)
                for graph in graph_names(bundle.manifest):
                    names = [plan_name(graph), sidecar_name(graph)]
                    (moving.names if graph in records else moving.gone).extend(names)
                    compiled = bundle.path.glob(f"{plan_name(graph)}.*.cache")
                    moving.gone += [path.name for path in compiled]  # of the engine before
    except OSError as error:
        raise OutputError(
            f"the engines of {bundle.path} cannot be written: {error.strerror or error}"
        ) from error
    return records


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other builds out of a bundle, else engines and sidecars of two could be mixed.

    The lock is the manifest's own: it leaves no file, and goes with the process however it ends.
    """
    lock = os.open(folder / MANIFEST, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(
                f"another `mdrt build` is at work in {folder}; wait until it is done"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)


@dataclass(frozen=True)
class _EngineJob:
    """What the engines of one bundle share."""

    bundle: Bundle
    library: Library
    options: EngineOptions
    profile: Mapping[str, Range]
    capabilities: tuple[str, ...]
    phases: Phases
    gpu: Gpu | str
    """To prove the engines on, or why they cannot be run."""

    def build(self, graph: str, folder: Path) -> PlanRecord:
        """Write one graph's engine and sidecar into `folder`."""
        manifest = self.bundle.manifest
        shapes = input_shapes(manifest, graph, self.profile)
        engine = build_engine(
            self.library, self.bundle.path / graph, shapes, self.options, self.phases
        )
        (folder / plan_name(graph)).write_bytes(engine.plan)
        record = PlanRecord(
            graph=graph,
            sources=sources(manifest, graph),
            library=self.library.name,
            library_version=self.library.version,
            created_by=__version__,
            precision=manifest.precision,
            profile=self.profile,
            shapes=shapes,
            compute_capabilities=self.capabilities,
            options=engine.options,
            layers=engine.layers,
            kernels=engine.kernels,
            plan=FileRecord(hashlib.sha256(engine.plan).hexdigest(), engine.plan.nbytes),
            seconds=round(engine.seconds, 3),
            proof=Proof(reason="it was not tried"),
        )
        record = replace(record, proof=self._prove(folder / plan_name(graph), record))
        text = json.dumps(record.to_json(), indent=2) + "\n"
        (folder / sidecar_name(graph)).write_text(text, encoding="utf-8")
        return record

    def _prove(self, plan: Path, record: PlanRecord) -> Proof:
        if isinstance(self.gpu, str):
            return Proof(reason=self.gpu)
        links = []
        if record.options.stripped:  # its weights are filled in from the graph beside it
            links = [plan.parent / name for name in record.sources]
            for link in links:
                link.symlink_to(self.bundle.path.resolve() / link.name)
        phase = f"{plan.name}: proof"
        self.phases.begin(phase, None)
        try:
            return prove_engine(self.bundle, plan, record, self.gpu)
        finally:
            self.phases.end(phase)
            for link in links:
                link.unlink()
