"""Class names → prompts → token ids, and which tokens belong to which class.

The names are joined by " and " as in the paper. A name may take several tokens, a class may
have synonyms, and a list too long for the tokenizer is split over several prompts. Spans come
from the tokenizer's offsets, so nothing is ever misaligned.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..bundle.contract import TokenizerSpec
from ..errors import BundleError, PromptError

JOINT: Final = " and "  # the official prompt: "road and sidewalk and …"

UNSEEN: Final = ("Cc", "Cf", "Me", "Mn", "Zl", "Zp", "Zs")
"""Unicode categories of characters without a shape of their own: controls, zero-width, marks."""

KEPT_TOKENS: Final = 4096
"""Texts whose tokens are kept: a list is asked again and again, with a name more or less."""

NEVER: Final = ("Cc", "Cs")
"""Of characters that no name has: controls, and halves of others."""
BIDI: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Characters that turn the order of others, so that a name shows as another."""

ClassName = str | Sequence[str]
"""A name, or synonyms of one class of which the first is shown."""


@dataclass(frozen=True)
class Prompts:
    """Tokenized class names.

    Attributes:
        names: of each class, its synonyms; the first is shown.
        texts: one text a prompt.
        input_ids: (prompts, max_length) int64.
        lengths: (prompts,) int64, tokens between begin and end.
        prompt: (tokens,) int64, the prompt each class token is in.
        position: (tokens,) int64, where in that prompt it is.
        owner: (tokens,) int64, the class it belongs to.
        begins: places before a prompt's first token of its own.
    """

    names: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    prompt: NDArray[np.int64]
    position: NDArray[np.int64]
    owner: NDArray[np.int64]
    begins: int = 1

    @property
    def classes(self) -> tuple[str, ...]:
        """The name shown for each class."""
        return tuple(names[0] for names in self.names)

    @property
    def shared(self) -> NDArray[np.bool_]:
        """(prompts, max_length): where what every prompt has is: begin, end and padding."""
        places = np.arange(self.input_ids.shape[1]) - self.begins
        shared: NDArray[np.bool_] = (places < 0) | (places >= self.lengths[:, None])
        return shared

    @staticmethod
    def none() -> Prompts:
        """The one prompt of a model without words, of no token."""
        none = np.zeros(0, dtype=np.int64)
        ids = np.zeros((1, 0), dtype=np.int64)
        return Prompts((), ("",), ids, np.zeros(1, np.int64), none, none, none, begins=0)


class PromptTokenizer:
    """The bundle's own tokenizer, run by the `tokenizers` library."""

    def __init__(self, path: Path, spec: TokenizerSpec) -> None:
        """Load `tokenizer.json`.

        Raises:
            BundleError: the file is no tokenizer.
        """
        from tokenizers import Tokenizer

        _check_tokenizer(path)
        self._path = path
        with self._trusted("is no tokenizer"):
            self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # names are text: "<|endoftext|>" ends nothing
        self._tokens = lru_cache(KEPT_TOKENS)(self._read)
        self.spec = spec

    def empty(self) -> Prompts:
        """The empty prompt: one text, no class."""
        none, length = np.zeros(0, dtype=np.int64), np.zeros(1, np.int64)
        return Prompts((), ("",), self.ids([""]), length, none, none, none, self.spec.begins)

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Begin, tokens, end, padding of texts that fit: (texts, max_length)."""
        return self._frame([[token for token, _ in self._tokens(text)] for text in texts])

    def excess(self, text: str) -> int:
        """Tokens of a text beyond what a prompt holds."""
        return max(0, len(self._tokens(text)) - self.spec.room)

    def encode(
        self, classes: Sequence[ClassName], others: Sequence[PromptTokenizer] = ()
    ) -> Prompts:
        """Tokenize a list of classes, into prompts that fit other tokenizers as well.

        Raises:
            PromptError: no class, an empty or repeated name, or one longer than a prompt.
        """
        phrases = _phrases(classes)
        every = (self, *others)
        groups: list[list[tuple[int, str]]] = []
        for owner, name in phrases:
            if not self._tokens(name):
                raise PromptError(f"class name {name!r} has no token; use letters or digits")
            for one in every:
                if excess := one.excess(name):
                    room = one.spec.room
                    raise PromptError(
                        f"class name {name[:40]!r}… takes {room + excess} tokens and a prompt "
                        f"holds {room}; shorten it"
                    )
            joined = JOINT.join([*(n for _, n in groups[-1]), name]) if groups else ""
            if groups and not any(one.excess(joined) for one in every):
                groups[-1].append((owner, name))
            else:
                groups.append([(owner, name)])
        return self._assemble(tuple(map(synonyms, classes)), groups)

    def _assemble(
        self, names: tuple[tuple[str, ...], ...], groups: Sequence[Sequence[tuple[int, str]]]
    ) -> Prompts:
        texts, rows = [], []
        prompt: list[int] = []
        position: list[int] = []
        owners: list[int] = []
        for index, group in enumerate(groups):
            text = JOINT.join(name for _, name in group)
            tokens = self._tokens(text)
            starts = np.cumsum([0] + [len(name) + len(JOINT) for _, name in group])
            for (owner, name), start in zip(group, starts, strict=False):
                for place, (_, (begin, end)) in enumerate(tokens):
                    if start <= begin and end <= start + len(name):
                        prompt.append(index)
                        position.append(place + self.spec.begins)
                        owners.append(owner)
            texts.append(text)
            rows.append([token for token, _ in tokens])
        ids = self._frame(rows)
        lengths, where, places, classes = (
            np.array(column, dtype=np.int64)
            for column in ([len(row) for row in rows], prompt, position, owners)
        )
        begins = self.spec.begins
        return Prompts(names, tuple(texts), ids, lengths, where, places, classes, begins)

    def _read(self, text: str) -> tuple[tuple[int, tuple[int, int]], ...]:
        """Ids and character offsets, without begin and end."""
        with self._trusted("cannot read a name"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            return tuple(zip(encoding.ids, encoding.offsets, strict=True))

    @contextmanager
    def _trusted(self, what: str) -> Iterator[None]:
        """A block in which the library may fail; it raises bare Exceptions, and panics."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust is no Exception
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"{self._path} {what}: {reason}; run `mdrt export` again") from error

    def _frame(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Begin, tokens, end, padding: (prompts, max_length)."""
        ids = np.full((len(rows), self.spec.max_length), self.spec.pad, dtype=np.int64)
        begin = [self.spec.bos] if self.spec.begins else []
        for index, row in enumerate(rows):
            framed = [*begin, *row, self.spec.eos]
            ids[index, : len(framed)] = framed
        return ids


def _check_tokenizer(path: Path) -> None:
    """See that a file may be a tokenizer, before the library reads it.

    Raises:
        BundleError: it cannot be read or is no JSON object, or holds a Precompiled normaliser,
            bytes that the library runs unchecked and panics at.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({error}); run `mdrt export` again") from error
    waiting = [values.get("normalizer")] if isinstance(values, dict) else ["Precompiled"]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            inner = part.get("normalizers")
            waiting += [part.get("type"), *(inner if isinstance(inner, list) else ())]
        elif part == "Precompiled":
            raise BundleError(
                f"{path} is no tokenizer that can be trusted; expected a JSON object without a "
                "Precompiled normaliser; run `mdrt export` again"
            )


def class_file(text: str) -> Path | None:
    """The file that a text stands for, "@FILE" or one whose name ends in .txt; None for names.

    Whether there is one of that name decides nothing: "sky" is a class, whatever lies around.
    """
    if text.startswith("@"):
        return Path(text[1:])
    return Path(text) if text.endswith(".txt") else None


def load_classes(text: str) -> Sequence[ClassName]:
    """Classes that a text stands for: a file's, see `class_file`, or the names it lists itself.

    Raises:
        PromptError: the file is not there or cannot be read.
    """
    path = class_file(text)
    if path is None:
        return parse_classes(text)
    if os.path.isdir(path):  # pathlib's raises for over-long names
        raise PromptError(f"class file {path} is a directory, expected a text file of names")
    if not os.path.lexists(path):
        raise PromptError(
            f"class file {path} does not exist; give one that does, or names with commas between"
        )
    return read_classes(path)


def parse_classes(text: str) -> list[str]:
    """The names of "sky, grass, traffic light", split at its commas; one at the end is forgiven."""
    names = [name.strip() for name in text.split(",")]
    return names[:-1] if len(names) > 1 and not names[-1] else names


def read_classes(path: Path) -> list[tuple[str, ...]]:
    """Read a class file: one class a line, commas between synonyms, `#` starts a comment.

    Raises:
        PromptError: the file cannot be read as UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"class file {path} cannot be read: {error}") from error
    kept = [line.split("#")[0].strip() for line in lines]
    return [tuple(name.strip() for name in line.split(",")) for line in kept if line]


def synonyms(name: ClassName) -> tuple[str, ...]:
    """Every name of a class, white space normalised; empty where nothing of it can be seen."""
    return tuple(_normal(n) for n in ([name] if isinstance(name, str) else name))


def _normal(name: str) -> str:
    seen = any(unicodedata.category(letter) not in UNSEEN for letter in name)
    return " ".join(name.split()) if seen else ""


def shown_names(classes: Sequence[ClassName]) -> tuple[str, ...]:
    """The name shown for each class: the first of its synonyms."""
    return tuple(synonyms(name)[0] for name in classes)


def with_background(classes: Sequence[ClassName], background: str) -> tuple[list[ClassName], str]:
    """The classes with the background among them, and the name shown for it.

    A synonym stands for its class. Case does not matter: no two names differ in it alone.

    Raises:
        PromptError: the background's name is empty.
    """
    name = _normal(background)
    if not name:
        raise PromptError("the background has no name; give one of the classes or another name")
    for names in map(synonyms, classes):
        if name.lower() in map(str.lower, names):
            return list(classes), names[0]
    return [*classes, name], name


def _phrases(classes: Sequence[ClassName]) -> list[tuple[int, str]]:
    """(class, name) for every name of every class, checked."""
    if isinstance(classes, str):
        raise PromptError("classes is one string, expected a list of names; split it at commas")
    if not classes:
        raise PromptError('no class names; give at least one, as in "sky, grass"')
    phrases = [(index, name) for index, names in enumerate(classes) for name in synonyms(names)]
    named = {index for index, name in phrases if name}
    for index in range(len(classes)):
        if index not in named:
            raise PromptError(
                f"class {index + 1} of {len(classes)} is empty; remove the stray comma or name it"
            )
    seen: set[str] = set()
    for index, name in phrases:
        if not name:
            raise PromptError(f"class {index + 1} has an empty synonym; remove the stray comma")
        if not set(map(unicodedata.category, name)).isdisjoint(NEVER) or BIDI & set(name):
            raise PromptError(f"class name {name!r} has control characters; take them out")
        if name.lower() in seen:
            raise PromptError(f"class name {name!r} is given twice; names must differ")
        seen.add(name.lower())
    return phrases
