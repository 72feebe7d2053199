"""The text side of a bundle: names → prompts → embeddings → keys, values."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...kernels import Array
from ..bundle import contract
from ..bundle.contract import TextSpec
from ..bundle.loading import Bundle
from ..disk.texts import keep_text, load_text
from ..errors import PromptError
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

    `inputs` holds what the network takes of them, by its inputs' names: (prompts, …) float32 each,
    on the model's device; nothing of a model without words.
    """

    prompts: Prompts
    inputs: Mapping[str, Array]

    @property
    def key(self) -> Hashable:
        """The same for texts that a pass shows the same of: their words, and whose tokens are
        where."""
        prompts = self.prompts
        return prompts.texts, prompts.prompt.tobytes(), prompts.position.tobytes()

    def every_token(self) -> EncodedText:
        """The same embeddings, read at every place of the first prompt, what frames and fills it
        included, each a class of its own."""
        places = np.arange(self.prompts.input_ids.shape[1])
        first = np.zeros_like(places)
        prompts = replace(self.prompts, prompt=first, position=places, owner=places)
        return EncodedText(prompts, self.inputs)


class Words:
    """A bundle's tokenizers, text encoders and graphs of keys and of values, each opened when it is
    first needed.

    Attributes:
        nodes: graph → ONNX Runtime's provider → how many nodes it has, where that is not the CPU's.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.nodes: dict[str, dict[str, int]] = {}
        self._bundle, self._manifest, self._backend = bundle, bundle.manifest, backend
        with bundle.held():
            self._tokenizers = [
                PromptTokenizer(bundle.path / text.tokenizer, text.tokens)
                for text in self._manifest.texts
            ]
        self._sessions: dict[str, Session] = {}
        self._texts: dict[tuple[str, ...], dict[str, Array]] = {}
        self._projected: dict[str, tuple[tuple[str, ...], tuple[Array, ...]]] = {}
        self._sentences: dict[tuple[str, tuple[str, ...]], NDArray[np.float32]] = {}
        self._lock = Lock()  # callers may be threads

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._sessions.values())

    def encode(self, classes: Sequence[ClassName] | None) -> EncodedText:
        """Embeddings of a class list; of the empty prompt for None. Kept for next time.

        Raises:
            PromptError: the class list cannot be a prompt, or the model reads no words.
            BundleError: a text encoder is not what the manifest says.
        """
        if classes is None and (not self._tokenizers or self._manifest.noise is None):
            return EncodedText(Prompts.none(), {})  # of a network that no words drive
        if not self._tokenizers:
            raise PromptError(
                f"{self._manifest.model_id} reads no words; ask it for segments, or take an engine "
                "with a text encoder for names"
            )
        first, *others = self._tokenizers
        prompts = first.empty() if classes is None else first.encode(classes, others)
        if self._manifest.noise is None:
            return EncodedText(prompts, {})
        with self._lock:
            inputs = self._texts.get(prompts.texts)
            if inputs is None:
                if len(self._texts) >= KEPT_TEXTS:
                    self._texts.pop(next(iter(self._texts)))
                with self._backend.device.active():
                    inputs = self._texts[prompts.texts] = self._embed_all(prompts.texts)
        # The same texts can stand for other groupings of synonyms: the embeddings are shared.
        return EncodedText(prompts, inputs)

    def embeddings(self, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Array:
        """The pooled embedding of every class, the mean over its synonyms and over the sentences
        that each is read in, all of length 1. Those of a name are kept for next time.

        Args:
            classes: the names of each.
            templates: sentences with {} in the place of a name.

        Returns:
            (classes, pooled) float32 of length 1, on the model's device.

        Raises:
            PromptError: a name is too long for a sentence.
            BundleError: the text encoder is not what the manifest says.
        """
        names = dict.fromkeys(name for synonyms in classes for name in synonyms)
        templates = tuple(templates)
        with self._lock:
            missing = [name for name in names if (name, templates) not in self._sentences]
            with self._backend.device.active():
                for name, mean in zip(missing, self._means(missing, templates), strict=True):
                    self._sentences[name, templates] = mean
            means = [
                np.mean([self._sentences[name, templates] for name in synonyms], axis=0)
                for synonyms in classes
            ]
        return self._backend.device.upload(_unit(np.stack(means)))

    def keys(self, text: EncodedText) -> tuple[Array, ...]:
        """K of a text's every token, (prompts, heads, max_length, d) float32 a layer; the last
        text's are kept.

        Raises:
            BundleError: the graph of keys is not what the manifest says.
        """
        layers = self._manifest.late
        return self._project(contract.KEYS, [layer.keys for layer in layers], text)

    def values(self, text: EncodedText) -> tuple[Array, ...]:
        """V of a text's every token through each head's part of the output projection, (prompts,
        heads, max_length, D) float32 a layer; the last text's are kept.

        Raises:
            BundleError: the graph of values is not what the manifest says.
        """
        layers = self._manifest.with_values
        return self._project(contract.VALUES, [layer.values for layer in layers], text)

    def release(self) -> None:
        """Give back the memory of text encoders; a class list not yet encoded loads them again."""
        for text in self._manifest.texts:
            encoder = self._sessions.pop(text.graph, None)
            if encoder is not None:
                encoder.close()
        self._backend.device.free()

    def close(self) -> None:
        """Give back what the graphs take, and what was computed."""
        for session in self.sessions:
            session.close()
        self._sessions.clear()
        self._texts.clear()
        self._sentences.clear()
        self._projected.clear()

    def session(self, graph: str) -> Session:
        """A text encoder or the graph of keys or of values, opened."""
        if graph not in self._sessions:
            session = self._backend.open(self._backend.files[graph])
            check_axes(self._bundle, graph, session)
            if isinstance(session, OrtSession) and session.nodes:
                self.nodes[session.path.name] = session.nodes
            self._sessions[graph] = session
        return self._sessions[graph]

    def _embed_all(self, texts: Sequence[str]) -> dict[str, Array]:
        """What the network takes of texts, by its inputs' names."""
        inputs: dict[str, Array] = {}
        for index, spec in enumerate(self._manifest.texts):
            states, *pooled = self._embed(spec, self._tokenizers[index].ids(texts))
            inputs[contract.states_name(index)] = states
            if pooled:
                inputs[contract.pooled_name(index)] = pooled[0]
        return inputs

    def _embed(self, spec: TextSpec, input_ids: NDArray[np.int64]) -> list[Array]:
        """(prompts, max_length, hidden) of (prompts, max_length) token ids; and (prompts, pooled)
        of an encoder that has it."""
        shapes = {contract.ENCODER_HIDDEN_STATES: (*input_ids.shape, spec.hidden)}
        if spec.pooled:
            shapes[contract.POOLED] = (len(input_ids), spec.pooled)
        device = self._backend.device
        digests = {name: self._digest(spec, name, input_ids) for name in shapes}
        known = [_known(digests[name], shape) for name, shape in shapes.items()]
        kept = [values for values in known if values is not None]
        if len(kept) == len(shapes):
            return [device.upload(values) for values in kept]
        ids, encoder = device.upload(input_ids), self.session(spec.graph)
        parts: dict[str, list[Array]] = {name: [] for name in shapes}
        for group in batches(len(ids), self._rows):
            outputs = encoder.infer({contract.INPUT_IDS: ids[group.start : group.stop]}, [*shapes])
            for name, computed in parts.items():
                computed.append(outputs[name].copy())  # a buffer filled anew
        found = [device.xp.concatenate(computed) for computed in parts.values()]
        for digest, values in zip(digests.values(), found, strict=True):
            if digest is not None:
                keep_text(digest, *device.download(values)())
        return found

    def _means(self, names: Sequence[str], templates: Sequence[str]) -> list[NDArray[np.float32]]:
        """The mean embedding (pooled,) of each name's sentences, of length 1 each."""
        spec, tokenizer = self._manifest.texts[0], self._tokenizers[0]
        sentences = [[template.format(name) for template in templates] for name in names]
        for name, own in zip(names, sentences, strict=True):
            if any(map(tokenizer.excess, own)):
                raise PromptError(f"class name {name[:40]!r}… is too long for a prompt; shorten it")
        ids = [tokenizer.ids(own) for own in sentences]
        digests = [self._digest(spec, "mean", own) for own in ids]
        found = [_known(digest, (spec.pooled,)) for digest in digests]
        unknown = [i for i, values in enumerate(found) if values is None]
        if unknown:
            pooled = _unit(self._pooled(spec, np.concatenate([ids[i] for i in unknown])))
            for i, vectors in zip(unknown, np.split(pooled, len(unknown)), strict=True):
                mean = found[i] = vectors.mean(axis=0)
                if (digest := digests[i]) is not None:
                    keep_text(digest, mean)
        return [values for values in found if values is not None]

    def _pooled(self, spec: TextSpec, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(prompts, pooled) of (prompts, max_length) token ids, which are cut after the last end
        where the graph takes any length."""
        encoder, device, parts = self.session(spec.graph), self._backend.device, []
        if isinstance(encoder, OrtSession) and encoder.inputs[contract.INPUT_IDS].shape[1] is None:
            last = int((input_ids == spec.tokens.eos).argmax(axis=1).max())
            input_ids = input_ids[:, : last + 1]
        ids = device.upload(np.ascontiguousarray(input_ids))
        for group in batches(len(ids), self._rows):
            feeds = {contract.INPUT_IDS: ids[group.start : group.stop]}
            parts.append(encoder.infer(feeds, [contract.POOLED])[contract.POOLED].copy())
        (pooled,) = device.download(device.xp.concatenate(parts))()
        return pooled

    def _project(self, graph: str, names: Sequence[str], text: EncodedText) -> tuple[Array, ...]:
        """(prompts, …) of every layer's part; computed anew where the last text was another."""
        with self._lock:
            texts, found = self._projected.get(graph, ((), ()))
            if texts == text.prompts.texts:
                return found
            with self._backend.device.active():
                session = self.session(graph)
                parts: list[list[Array]] = [[] for _ in names]
                for group in batches(len(text.prompts.texts), self._rows):
                    feeds = {
                        name: text.inputs[name][group.start : group.stop] for name in session.inputs
                    }
                    outputs = session.infer(feeds, names)
                    for name, computed in zip(names, parts, strict=True):
                        computed.append(outputs[name].copy())
                found = tuple(map(self._backend.device.xp.concatenate, parts))
            self._projected[graph] = text.prompts.texts, found
            return found

    @property
    def _rows(self) -> int:
        """Prompts of a batch."""
        return min(self._backend.rows or MOST_PROMPTS, MOST_PROMPTS)

    def _digest(self, spec: TextSpec, output: str, input_ids: NDArray[np.int64]) -> str | None:
        """Of all that embeddings depend on: the text encoder's files, what runs it, the tokens.
        None where it is small."""
        stem = spec.graph.removesuffix("onnx")
        files = {n: record for n, record in self._manifest.files.items() if n.startswith(stem)}
        if sum(record.bytes for record in files.values()) < KEPT_ABOVE:
            return None
        digest = hashlib.sha256(self._backend.name.encode())
        for name in sorted(files):
            digest.update(f"{name} {files[name].sha256} ".encode())
        digest.update(f"{output} {input_ids.shape} ".encode() + input_ids.tobytes())
        return digest.hexdigest()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d), each of length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _known(digest: str | None, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """What the disk keeps under a digest; None if that is nothing of this shape."""
    known = None if digest is None else load_text(digest)
    fits = known is not None and known.shape == shape and known.dtype == np.float32
    return known if fits else None
