"""The text side of a bundle: names → prompts → embeddings → keys, values."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ...kernels import Array
from ..bundle import contract
from ..bundle.loading import Bundle
from ..disk.texts import keep_text, load_text
from ..pictures.bands import batches
from ..sessions.backend import Backend
from ..sessions.base import Session
from ..sessions.ort import OrtSession
from .axes import check_axes
from .prompts import ClassName, Prompts, PromptTokenizer

KEPT_TEXTS: Final = 8
"""Class lists whose embeddings are kept; the one encoded first gives way."""

MOST_PROMPTS: Final = 8
"""Prompts of a batch: what is held beside the results does not grow with the list."""

KEPT_ABOVE: Final = 1 << 26
"""Bytes of a text encoder whose embeddings are kept on the disk: a smaller one is as fast."""


@dataclass(frozen=True)
class EncodedText:
    """Prompts and their embeddings, computed once per class list.

    `hidden` is (prompts, max_length, hidden) float32, on the model's device.
    """

    prompts: Prompts
    hidden: Array

    @property
    def key(self) -> Hashable:
        """The same for texts that a pass shows the same of: their words, and whose tokens are
        where."""
        prompts = self.prompts
        return prompts.texts, prompts.prompt.tobytes(), prompts.position.tobytes()


class Words:
    """A bundle's tokenizer, text encoder and graph of keys, each opened when it is first needed.

    Attributes:
        nodes: graph → ONNX Runtime's provider → how many nodes it has, where that is not the CPU's.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.nodes: dict[str, dict[str, int]] = {}
        self._bundle, self._manifest, self._backend = bundle, bundle.manifest, backend
        with bundle.held():
            self._tokenizer = PromptTokenizer(bundle.tokenizer, self._manifest.tokenizer)
        self._sessions: dict[str, Session] = {}
        self._texts: dict[tuple[str, ...], Array] = {}
        self._projected: dict[str, tuple[tuple[str, ...], tuple[Array, ...]]] = {}
        self._lock = Lock()  # callers may be threads

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._sessions.values())

    def encode(self, classes: Sequence[ClassName] | None) -> EncodedText:
        """Embeddings of a class list; of the empty prompt for None. Kept for next time.

        Raises:
            PromptError: the class list cannot be a prompt.
            BundleError: the text encoder is not what the manifest says.
        """
        tokenizer = self._tokenizer
        prompts = tokenizer.empty() if classes is None else tokenizer.encode(classes)
        with self._lock:
            hidden = self._texts.get(prompts.texts)
            if hidden is None:
                if len(self._texts) >= KEPT_TEXTS:
                    self._texts.pop(next(iter(self._texts)))
                with self._backend.device.active():
                    hidden = self._texts[prompts.texts] = self._embed(prompts.input_ids)
        # The same texts can stand for other groupings of synonyms: the embeddings are shared.
        return EncodedText(prompts, hidden)

    def keys(self, text: EncodedText) -> tuple[Array, ...]:
        """K of a text's every token, (prompts, heads, max_length, d) float32 a layer; the last
        text's are kept.

        Raises:
            BundleError: the graph of keys is not what the manifest says.
        """
        return self._project("keys", text)

    def values(self, text: EncodedText) -> tuple[Array, ...]:
        """V of a text's every token through each head's part of the output projection, (prompts,
        heads, max_length, D) float32 a layer; the last text's are kept.

        Raises:
            BundleError: the graph of keys is not what the manifest says.
        """
        return self._project("values", text)

    def release(self) -> None:
        """Give back the memory of the text encoder; a class list not yet encoded loads it again."""
        encoder = self._sessions.pop(contract.TEXT_ENCODER, None)
        if encoder is not None:
            encoder.close()
        self._backend.device.free()

    def close(self) -> None:
        """Give back what the graphs take, and what was computed."""
        for session in self.sessions:
            session.close()
        self._sessions.clear()
        self._texts.clear()
        self._projected.clear()

    def session(self, graph: str) -> Session:
        """The text encoder or the graph of keys, opened."""
        if graph not in self._sessions:
            session = self._backend.open(self._backend.files[graph])
            check_axes(self._bundle, graph, session)
            if isinstance(session, OrtSession) and session.nodes:
                self.nodes[session.path.name] = session.nodes
            self._sessions[graph] = session
        return self._sessions[graph]

    def _embed(self, input_ids: NDArray[np.int64]) -> Array:
        """(prompts, max_length, hidden) of (prompts, max_length) token ids."""
        device, digest = self._backend.device, self._digest(input_ids)
        shape = (*input_ids.shape, self._manifest.text.hidden)
        if digest is not None:
            known = load_text(digest)
            if known is not None and known.shape == shape and known.dtype == np.float32:
                return device.upload(known)
        ids, parts = device.upload(input_ids), []
        encoder = self.session(contract.TEXT_ENCODER)
        for group in batches(len(ids), self._rows):
            outputs = encoder.infer({contract.INPUT_IDS: ids[group.start : group.stop]})
            parts.append(outputs[contract.ENCODER_HIDDEN_STATES].copy())  # a buffer filled anew
        hidden: Array = device.xp.concatenate(parts)
        if digest is not None:
            keep_text(digest, *device.download(hidden)())
        return hidden

    def _project(self, part: Literal["keys", "values"], text: EncodedText) -> tuple[Array, ...]:
        """(prompts, …) of every layer's part; computed anew where the last text was another."""
        with self._lock:
            texts, found = self._projected.get(part, ((), ()))
            if texts == text.prompts.texts:
                return found
            names = [getattr(layer, part) for layer in self._manifest.attention]
            with self._backend.device.active():
                graph, hidden = self.session(contract.KEYS), text.hidden
                parts: list[list[Array]] = [[] for _ in names]
                for group in batches(len(hidden), self._rows):
                    feeds = {contract.ENCODER_HIDDEN_STATES: hidden[group.start : group.stop]}
                    outputs = graph.infer(feeds, names)
                    for name, computed in zip(names, parts, strict=True):
                        computed.append(outputs[name].copy())
                found = tuple(map(self._backend.device.xp.concatenate, parts))
            self._projected[part] = text.prompts.texts, found
            return found

    @property
    def _rows(self) -> int:
        """Prompts of a batch."""
        return min(self._backend.rows or MOST_PROMPTS, MOST_PROMPTS)

    def _digest(self, input_ids: NDArray[np.int64]) -> str | None:
        """Of all that embeddings depend on: the text encoder's files, what runs it, the tokens.
        None where it is small."""
        stem = contract.TEXT_ENCODER.removesuffix("onnx")
        files = {n: record for n, record in self._manifest.files.items() if n.startswith(stem)}
        if sum(record.bytes for record in files.values()) < KEPT_ABOVE:
            return None
        digest = hashlib.sha256(self._backend.name.encode())
        for name in sorted(files):
            digest.update(f"{name} {files[name].sha256} ".encode())
        digest.update(f"{input_ids.shape} ".encode() + input_ids.tobytes())
        return digest.hexdigest()
