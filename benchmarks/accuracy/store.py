"""Counts of every picture and setting in one SQLite file: what was done survives a kill, and what
several processes did can be put together."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import MdrtError
from ..metrics import Counts

RESULTS_VERSION: Final = 4
"""Of what is in a file: raised whenever mdrt gives or counts labels otherwise than before, or keeps
them in another form. Results of two versions are never mixed.

2: segments matched as DiffSeg and PiCIE do; a run is of one bundle, whole, and of one root.
3: settings are a head and its options; labels are the segmenter's own.
4: the classes in the prompt are all, present or predicted; seconds are kept.
"""

RESULTS: Final = "results.sqlite"
"""The file in an evaluation's folder."""

PATIENCE: Final = 60.0
"""Seconds to wait for another process that writes to the same file."""

PLACES: Final = ("root", "train_root")
"""What a run read from: one place for one file, but shards on other machines have their own."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (
    image TEXT, setting TEXT, counts BLOB NOT NULL, boundary BLOB, networks REAL, own REAL,
    PRIMARY KEY (image, setting)
);
CREATE TABLE IF NOT EXISTS fitted (setting TEXT PRIMARY KEY, levels BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS problems (image TEXT PRIMARY KEY, message TEXT NOT NULL);
"""

_MOST_BYTES: Final = 1 << 28
_MOST_SIDE: Final = 1 << 13
"""Of a matrix of counts: far beyond any, and small enough that no damage asks for all memory."""

_ADD: Final = "INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?, ?, ?)"


class Store:
    """An open result file. One thread uses it at a time."""

    def __init__(self, path: Path, meta: Mapping[str, Any] | None = None) -> None:
        """Open a file, or begin one.

        Args:
            path: the file.
            meta: what its results depend on; must be what the file was begun with, as far as
                that noted it. None opens a file that is there.

        Raises:
            MdrtError: it is no result file, or was begun with something else.
        """
        self.path = path
        if meta is None and not path.is_file():
            raise MdrtError(f"{path} does not exist; expected the results.sqlite of an evaluation")
        try:
            self._database = sqlite3.connect(
                path, PATIENCE, check_same_thread=False, isolation_level=None
            )
        except sqlite3.Error as error:
            raise MdrtError(f"{path} cannot be opened ({error})", out=...) from error
        try:
            self.meta = self._read_meta(begin=meta is not None)
            if meta is not None:
                self.bind({"results_version": RESULTS_VERSION, **meta})
        except BaseException:
            self._database.close()  # or its locks would outlive it
            raise

    def _read_meta(self, begin: bool) -> dict[str, Any]:
        """What the file's results depend on; with `begin` it may be a file without any.

        Raises:
            MdrtError: it is no result file of this version.
        """
        path = self.path
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_TABLES)
            known = dict(self._database.execute("SELECT key, value FROM meta"))
            meta: dict[str, Any] = {key: json.loads(value) for key, value in known.items()}
        except sqlite3.OperationalError as error:
            raise MdrtError(f"{path} cannot be opened ({error})", out=...) from error
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise MdrtError(
                f"{path} is no result file of mdrt eval ({error}); choose another folder", out=...
            ) from error
        if not meta and not begin:
            raise MdrtError(f"{path} holds no results; expected those of an evaluation")
        version = meta.get("results_version", 1 if meta else RESULTS_VERSION)
        if version != RESULTS_VERSION:
            raise MdrtError(
                f"{path} is of results version {version}, this mdrt writes {RESULTS_VERSION}, and "
                "their figures do not compare; evaluate again into another folder, or delete it",
                out=...,
            )
        return meta

    def bind(self, facts: Mapping[str, Any]) -> None:
        """Note what the results depend on, from here on.

        Raises:
            MdrtError: they were begun with something else.
        """
        for key, value in facts.items():
            asked = json.loads(json.dumps(value))
            if key in self.meta and self.meta[key] != asked:
                raise MdrtError(
                    f"{self.path} holds results with {key} {self.meta[key]!r}, asked for is "
                    f"{asked!r}; choose another folder, or delete the file",
                    out=...,
                )
        texts = {key: json.dumps(value) for key, value in facts.items()}
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", texts.items())
        self.meta |= {key: json.loads(text) for key, text in texts.items()}

    def add(
        self,
        image: str,
        counts: Mapping[str, Counts],
        boundaries: Mapping[str, Counts],
        seconds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Keep one picture's counts by setting, all or none of them; with them the seconds that
        each took (in the networks, by itself)."""
        seconds = seconds or {}
        rows = [
            (
                image,
                key,
                pack(part),
                pack(boundaries[key]) if key in boundaries else None,
                *seconds.get(key, (None, None)),
            )
            for key, part in counts.items()
        ]
        with self._transaction():
            self._database.executemany(_ADD, rows)
            self._database.execute("DELETE FROM problems WHERE image = ?", (image,))

    def add_problem(self, image: str, message: str) -> None:
        """Note why a picture has no counts."""
        with self._transaction():
            values = (image, message)
            self._database.execute("INSERT OR REPLACE INTO problems VALUES (?, ?)", values)

    def done(self, bounded: Collection[str] = ()) -> dict[str, set[str]]:
        """The settings that each picture already has; those of `bounded` with boundaries."""
        found: dict[str, set[str]] = {}
        rows = self._read("SELECT image, setting, boundary IS NOT NULL FROM counts")
        for image, setting, has_boundary in rows:
            if has_boundary or setting not in bounded:
                found.setdefault(image, set()).add(setting)
        return found

    def images(self, setting: str) -> set[str]:
        """The pictures that a setting has counts of."""
        rows = self._read("SELECT image FROM counts WHERE setting = ?", (setting,))
        return {image for (image,) in rows}

    def counts(self, setting: str, images: Collection[str] | None = None) -> list[Counts]:
        """The counts of every picture, or of those among `images`, for a setting, in the order of
        the pictures' names."""
        return self._matrices("counts", setting, images)

    def boundaries(self, setting: str, images: Collection[str] | None = None) -> list[Counts]:
        """As `counts`, (2, classes) of the boundaries; of the pictures where they were counted."""
        return self._matrices("boundary", setting, images)

    def _matrices(
        self, column: str, setting: str, images: Collection[str] | None
    ) -> list[NDArray[np.int64]]:
        rows = self._read(
            f"SELECT image, {column} FROM counts WHERE setting = ? AND {column} NOT NULL "
            "ORDER BY image",
            (setting,),
        )
        return [self._unpacked(blob) for image, blob in rows if images is None or image in images]

    def _read(self, question: str, values: tuple[str, ...] = ()) -> list[Any]:
        """The rows that answer a question.

        Raises:
            MdrtError: the file is damaged.
        """
        try:
            return self._database.execute(question, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise MdrtError(
                f"{self.path} cannot be read ({error}); delete it and evaluate again", out=...
            ) from error

    def _unpacked(self, blob: bytes) -> Counts:
        """A matrix of counts.

        Raises:
            MdrtError: it is damaged.
        """
        try:
            return unpack(blob)
        except (zlib.error, ValueError, IndexError, TypeError, MemoryError, OverflowError) as error:
            raise MdrtError(
                f"{self.path} holds counts that are none ({error}); delete it and evaluate again",
                out=...,
            ) from error

    def seconds(self, setting: str, images: Collection[str]) -> tuple[float, float] | None:
        """Mean seconds a picture, in the networks and by itself; None where they were not kept."""
        rows = self._read(
            "SELECT image, networks, own FROM counts WHERE setting = ? AND own NOT NULL", (setting,)
        )
        found = [times for image, *times in rows if image in images]
        if not found:
            return None
        if not all(isinstance(value, float) for times in found for value in times):
            raise MdrtError(f"{self.path} holds seconds that are none; evaluate again", out=...)
        networks, own = np.mean(found, axis=0)
        return float(networks), float(own)

    def settings(self) -> list[str]:
        """Every setting with counts."""
        rows = self._read("SELECT DISTINCT setting FROM counts ORDER BY rowid")
        return list(dict.fromkeys(key for (key,) in rows))

    def problems(self, images: Collection[str] | None = None) -> dict[str, str]:
        """Why pictures, or those among `images`, have no counts, by picture."""
        rows = self._read("SELECT image, message FROM problems ORDER BY image")
        return {image: text for image, text in rows if images is None or image in images}

    def fitted(self, setting: str) -> list[NDArray[np.float32]] | None:
        """The prototypes a setting was fitted with, if it was."""
        rows = self._read("SELECT levels FROM fitted WHERE setting = ?", (setting,))
        if not rows:
            return None
        levels, at = [], 0
        try:
            shapes, _, values = zlib.decompress(rows[0][0]).partition(b"\n")
            for shape in json.loads(shapes):
                size = 4 * shape[0] * shape[1]
                levels.append(np.frombuffer(values[at : at + size], np.float32).reshape(shape))
                at += size
        except (zlib.error, ValueError, LookupError, TypeError, RecursionError) as error:
            raise MdrtError(
                f"{self.path} holds prototypes that are none ({error}); delete it and evaluate "
                "again",
                out=...,
            ) from error
        return levels

    def add_fitted(self, setting: str, levels: list[NDArray[np.float32]]) -> None:
        """Keep the prototypes of a setting."""
        shapes = json.dumps([level.shape for level in levels]).encode()
        values = b"".join(np.ascontiguousarray(level).tobytes() for level in levels)
        blob = zlib.compress(shapes + b"\n" + values)
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO fitted VALUES (?, ?)", (setting, blob))

    def merge(self, other: Store) -> None:
        """Take over another file's counts and problems, and facts that this one did not note.

        Raises:
            MdrtError: it was begun with something else, or a picture has other counts there.
        """
        facts = {key: value for key, value in other.meta.items() if key not in PLACES}
        for key, value in facts.items():
            if self.meta.get(key, value) != value:
                raise MdrtError(
                    f"{other.path} holds results with {key} {value!r}, {self.path} with "
                    f"{self.meta[key]!r}; only shards of one evaluation can be merged"
                )
        self.bind(facts)
        mine = "SELECT counts FROM counts WHERE image = ? AND setting = ?"
        theirs = other._database.execute(
            "SELECT image, setting, counts, boundary, networks, own FROM counts"
        )
        with self._transaction():
            for image, setting, counts, *rest in theirs:
                known = self._database.execute(mine, (image, setting)).fetchone()
                if known is not None and (
                    not np.array_equal(self._unpacked(known[0]), other._unpacked(counts))
                ):
                    raise MdrtError(f"{image} has other counts in {other.path} than in {self.path}")
                self._database.execute(_ADD, (image, setting, counts, *rest))
            self._database.executemany(
                "INSERT OR IGNORE INTO problems VALUES (?, ?)", other.problems().items()
            )

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that the block writes, or nothing of it.

        Raises:
            MdrtError: the disk refused.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise MdrtError(f"{self.path} cannot be written: {error}", out=...) from error
            raise


def pack(counts: Counts) -> bytes:
    """A matrix of counts, nearly all zero, as bytes."""
    places = np.flatnonzero(counts)
    values = np.concatenate([np.array(counts.shape), places, counts.ravel()[places]])
    return zlib.compress(values.astype("<i8").tobytes())


def unpack(blob: bytes) -> Counts:
    """The inverse of `pack`.

    Raises:
        ValueError, zlib.error: the bytes are of no such matrix.
    """
    opened = zlib.decompressobj()
    values = np.frombuffer(opened.decompress(blob, _MOST_BYTES), "<i8")
    shape, rest = values[:2], values[2:]
    if opened.unconsumed_tail or len(shape) != 2 or len(rest) % 2:
        raise ValueError("their bytes are of no matrix")
    if not (shape.min() > 0 and shape.max() <= _MOST_SIDE):
        raise ValueError(f"a matrix of {shape[0]}×{shape[1]}")
    places, found = np.split(rest, 2)
    counts = np.zeros(int(shape.prod()), dtype=np.int64)
    if len(places) and not (places.min() >= 0 and places.max() < len(counts) and found.min() >= 0):
        raise ValueError("a place outside the matrix, or a negative count")
    counts[places] = found
    return counts.reshape(shape)
