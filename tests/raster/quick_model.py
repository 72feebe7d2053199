"""The embedded model with networks that take no time: what a tile shows depends on all of it, as of
real ones, and is told apart by colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

import mdrt
from mdrt.kernels import Array
from mdrt.runtime.bundle import contract
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.look.axes import graph_axes
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.base import Session, TensorSpec
from mdrt.runtime.sessions.device import Host
from mdrt.runtime.sessions.ort import OrtSession
from mdrt.runtime.triton.config import dtype


class QuickSession(Session):
    """A graph's inputs through fixed random products, and what is near mixed in."""

    ran = 0
    """Tiles that the UNet saw, of all sessions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Host())
        self._manifest = load_bundle(EMBEDDED).manifest
        fed, given = graph_axes(self._manifest, path.name)
        self.inputs = {name: TensorSpec(dtype(name), shape) for name, shape in fed.items()}
        self.outputs = {name: TensorSpec(dtype(name), shape) for name, shape in given.items()}

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        if self.path.name == contract.VAE_ENCODER:
            image = feeds[contract.IMAGE]
            b, c, h, w = image.shape
            cells = image.reshape(b, c, h // 16, 16, w // 16, 16).mean(axis=(3, 5))
            return [_mixed("latent", cells, self._manifest.latent.channels)]
        sample, hidden = feeds[contract.SAMPLE], feeds[contract.ENCODER_HIDDEN_STATES]
        QuickSession.ran += len(sample)
        near = sample + 0.2 * (np.roll(sample, 1, axis=2) + np.roll(sample, 2, axis=3))
        near = near + 0.1 * sample.mean(axis=(2, 3), keepdims=True)
        found = []
        for name in names:
            shape = self.outputs[name].shape
            if name.startswith(("features", "encoder")):
                found.append(np.tanh(_mixed(name, near, shape[1] or 1)))
                continue
            heads = shape[1] or 1
            channels = 8 if name.startswith("logits") else shape[3] or 1
            queries = _mixed(name, near, heads * channels).reshape(len(near), heads, channels, -1)
            if not name.startswith("logits"):
                found.append(np.ascontiguousarray(queries.transpose(0, 1, 3, 2)))
                continue
            words = np.moveaxis(
                _mixed("words", np.moveaxis(hidden, 2, 1)[..., None], channels), 2, 1
            )
            found.append(queries.swapaxes(2, 3) @ words[:, None, :, :, 0].swapaxes(2, 3))
        return found


def _mixed(name: str, values: Array, channels: int) -> Array:
    """(rows, n, h, w) to (rows, channels, h, w)."""
    random = np.random.default_rng(crc32(name.encode()))
    matrix = random.normal(size=(channels, values.shape[1])) / np.sqrt(values.shape[1])
    mixed: Array = matrix.astype(np.float32) @ values.reshape(*values.shape[:2], -1)
    return mixed.reshape(len(values), channels, *values.shape[2:])


def quick_segmenter() -> mdrt.Segmenter:
    def opened(path: Path) -> Session:
        if path.name in (contract.text_encoder_name(0), contract.KEYS):
            return OrtSession(path, "cpu", 1, False, Host(), False)
        return QuickSession(path)

    return mdrt.Segmenter(open_graph=opened)
