"""Open a bundle: the directory that `mdrt export` wrote, trusted only after checking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt

from .contract import (
    GRAPHS,
    MANIFEST,
    NOISE,
    TEXT_ENCODER,
    TOKENIZER,
    UNET,
    VAE_ENCODER,
    FileRecord,
    Manifest,
    twin_name,
)
from .engines.plan import PlanRecord, check_plans, plan_name
from .errors import BundleError
from .files import check_hash, check_size
from .hashes import sha256

_REMEDY: Final = "run `mdrt export` again"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its directory, its manifest, and its engines' sidecars by graph if it was
    opened by an engine."""

    path: Path
    manifest: Manifest
    plans: Mapping[str, PlanRecord] = field(default_factory=dict)

    @property
    def vae_encoder(self) -> Path:
        return self.path / VAE_ENCODER

    @property
    def text_encoder(self) -> Path:
        return self.path / TEXT_ENCODER

    @property
    def unet(self) -> Path:
        return self.path / UNET

    def graphs(self, twins: bool) -> tuple[Path, Path, Path]:
        """VAE encoder, text encoder and UNet; with `twins` those for CPUs, where there are."""
        vae, text, unet = (
            self.path / (name if not twins or twin not in self.manifest.files else twin)
            for name, twin in ((name, twin_name(name)) for name in GRAPHS)
        )
        return vae, text, unet

    @property
    def tokenizer(self) -> Path:
        return self.path / TOKENIZER

    def noise(self) -> npt.NDArray[np.float32]:
        """The fixed noise ε: (latent_channels, N, N) float32, standard normal.

        A larger canvas repeats it periodically, so that a latent cell's noise
        depends on its position alone.

        Raises:
            BundleError: the file is no array of that shape and type.
        """
        try:
            noise: npt.NDArray[np.float32] = np.load(self.path / NOISE, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.path / NOISE} cannot be read ({error}); {_REMEDY}") from error
        channels = self.manifest.latent_channels
        shaped = noise.ndim == 3 and noise.shape[0] == channels
        if not shaped or noise.dtype != np.float32 or noise.size == 0:
            raise BundleError(
                f"{self.path / NOISE} is {noise.dtype} {noise.shape}, expected float32 "
                f"({channels}, N, N); {_REMEDY}"
            )
        return noise


def load_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Open and check a bundle.

    Args:
        path: a bundle directory, or the `unet.onnx` or `unet.plan` inside one. By its engine it
            is opened to be run by TensorRT: then the ONNX files need not be there, unless the
            engines were stripped of their weights.
        verify: hash every file (a large one only if it is not as it was last hashed); without it
            only presence and size are checked.

    Raises:
        BundleError: no bundle there, an unreadable manifest, another schema version, a file
            missing, truncated or changed; an engine that `check_plans` refuses.
    """
    path = Path(path)
    directory = _directory(path)
    manifest = _read_manifest(directory / MANIFEST)
    for name in (*GRAPHS, NOISE, TOKENIZER):
        if name not in manifest.files:
            raise BundleError(f"{directory / MANIFEST} does not list {name}; {_REMEDY}")
    plans = check_plans(directory, manifest) if path.name == plan_name(UNET) else {}
    stripped = any(record.options.stripped for record in plans.values())
    needed = {
        name: record
        for name, record in manifest.files.items()
        if stripped or not plans or not _is_graph(name)
    }
    for name, record in needed.items():
        _check_inside(directory, name)
        check_size(directory / name, record, _REMEDY)
    if verify:
        for name, record in needed.items():
            check_hash(directory / name, record, _REMEDY)
    return Bundle(directory, manifest, plans)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `directory`, readable by people and by `load_bundle`."""
    text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def record_file(path: Path) -> FileRecord:
    """The record of a file as it is now."""
    return FileRecord(sha256(path), path.stat().st_size)


def _directory(path: Path) -> Path:
    """The bundle directory that `path` stands for."""
    if path.is_dir():
        return path
    if path.name == plan_name(UNET) or (path.name == UNET and path.exists()):
        return path.parent
    if not path.exists():
        raise BundleError(f"no bundle at {path}; write one with `mdrt export MODEL -o {path}`")
    raise BundleError(
        f"{path} is a file, expected a bundle directory, its {UNET} or its {plan_name(UNET)}"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
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


def _is_graph(name: str) -> bool:
    """Whether a file is a graph, its twin, or the weights of one."""
    return any(name.startswith(graph.removesuffix("onnx")) for graph in GRAPHS)


def _check_inside(directory: Path, name: str) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise BundleError(f"{directory / MANIFEST} lists {name}, which lies outside; {_REMEDY}")
