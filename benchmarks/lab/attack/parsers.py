"""Every parser of what may come from strangers, and the only errors that each may end with."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ....benchmarks.accuracy.store import RESULTS, Store
from ....runtime.bundle.contract import (
    DIGEST,
    MANIFEST,
    NOISE,
    FileRecord,
    Manifest,
    digest,
    tokenizer_name,
)
from ....runtime.bundle.cuts import graph_names
from ....runtime.bundle.external import find_external
from ....runtime.bundle.loading import Bundle, _Files, load_bundle
from ....runtime.bundle.plan import (
    BuildOptions,
    Kernels,
    PlanRecord,
    Proof,
    Range,
    Shapes,
    check_plans,
    plan_name,
    sidecar_name,
    sources,
)
from ....runtime.disk.atomic import WHOLE, recover
from ....runtime.errors import BundleError, ImageError, MdrtError, PromptError
from ....runtime.look.prompts import PromptTokenizer, read_classes
from ....runtime.pictures.images import read_image
from ....runtime.pictures.output import read_record
from ....runtime.segmenter import EMBEDDED
from .mutations import Mutation, Random, of_bytes, of_json, of_text

FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        name: of it.
        seeds: inputs that it takes.
        mutate: makes others of them.
        parse: reads one.
        allowed: the errors that it may end with.
    """

    name: str
    seeds: Sequence[bytes]
    mutate: Mutation
    parse: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]


@dataclass(frozen=True)
class Crash:
    """An input that ended a parser otherwise."""

    parser: str
    content: bytes
    error: str


def attack(parser: Parser, runs: int, random: Random) -> Iterator[Crash]:
    """Read mutated inputs; every crash is given as small as it still is one."""
    for _ in range(runs):
        seed = parser.seeds[int(random.integers(0, len(parser.seeds)))]
        content = parser.mutate(seed, random)
        error = ended(parser, content)
        if error is not None:
            yield Crash(parser.name, _smaller(parser, content, error), error)


def ended(parser: Parser, content: bytes) -> str | None:
    """How a parser ended that must not end so; None where it may."""
    try:
        parser.parse(content)
    except parser.allowed as error:
        text = str(error)
        return f"{type(error).__name__} of several lines" if "\n" in text else None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def _smaller(parser: Parser, content: bytes, error: str) -> bytes:
    """The content without what the crash does not need, in halves, quarters and so on."""
    kind, size, tries = error.partition(":")[0], max(1, len(content) // 2), 300
    while tries > 0:
        at = 0
        while at < len(content) and len(content) > 1 and tries > 0:
            tries -= 1
            shorter = content[:at] + content[at + size :]
            if (ended(parser, shorter) or "").partition(":")[0] == kind:
                content = shorter
            else:
                at += size
        if size == 1:
            break
        size //= 2
    return content


def parsers(folder: Path) -> list[Parser]:
    """Every one, working in a folder."""
    manifest = (EMBEDDED / MANIFEST).read_bytes()
    bundle = load_bundle(EMBEDDED, verify=False)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)

    def on_file(name: str, parse: Callable[[Path], object]) -> Callable[[bytes], object]:
        path = scratch / name

        def read(content: bytes) -> object:
            path.write_bytes(content)
            return parse(path)

        return read

    def tokenize(path: Path) -> object:
        return PromptTokenizer(path, bundle.manifest.texts[0].tokens).encode(["sky", "water, sea"])

    def noise(path: Path) -> object:
        record = {NOISE: FileRecord("0" * 64, path.stat().st_size)}
        return Bundle(path.parent, bundle.manifest, _Files(path.parent, record, False)).noise()

    return [
        Parser("pictures", pictures(), of_bytes, read_image, (ImageError,)),
        Parser(
            "class files",
            [b"sky\nwater, sea # of salt\n\xc3\xa4, house\n"],
            of_text,
            on_file("names.txt", lambda path: _name(bundle, path)),
            (PromptError,),
        ),
        Parser("manifest", [manifest], of_json, _manifest, (BundleError,)),
        Parser(
            "graphs",
            [(EMBEDDED / name).read_bytes() for name in graph_names(bundle.manifest)],
            of_bytes,
            on_file("graph.onnx", find_external),
            (BundleError,),
        ),
        Parser(
            "tokenizer",
            [_small_tokenizer()],
            of_json,
            on_file("tokenizer.json", tokenize),
            (BundleError, PromptError),
        ),
        Parser(
            "noise",
            [(EMBEDDED / NOISE).read_bytes()],
            of_bytes,
            on_file(NOISE, noise),
            (BundleError,),
        ),
        Parser(
            "sidecar",
            [json.dumps(_sidecar(bundle.manifest).to_json()).encode()],
            of_json,
            lambda content: _engine(scratch, bundle.manifest, content),
            (BundleError,),
        ),
        Parser("results", [_results(folder)], of_bytes, on_file(RESULTS, _counts), (MdrtError,)),
        Parser(
            "records",
            [b'{"schema": 4, "versions": {"mdrt": "1"}, "classes": [{"name": "sky"}]}'],
            of_json,
            on_file("record.json", read_record),
            (),
        ),
        Parser(
            "journals",
            [b'{"names": ["a"], "gone": ["b"], "seen": {"a": null, "b": [1, 2, 3]}}'],
            of_json,
            lambda content: _journal(scratch, content),
            (),
        ),
    ]


def careless() -> Parser:
    """The control: a reader as naive as they come, which the campaign must catch."""
    seed = b'{"size": [2, 2], "name": "sky"}'

    def read(content: bytes) -> object:
        values = json.loads(content)
        return values["size"][0] + values["size"][1], values["name"].upper()

    return Parser("control", [seed], of_json, read, (ValueError,))


def pictures() -> list[bytes]:
    """A small picture in every format."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 16, 3), dtype=np.uint8)
    seeds = []
    for name in FORMATS:
        file = io.BytesIO()
        with suppress(KeyError, OSError):  # of a Pillow without it
            Image.fromarray(pixels).save(file, name)
            seeds.append(file.getvalue())
    return seeds


def _name(bundle: Bundle, path: Path) -> object:
    """A class file's names, tokenized."""
    return PromptTokenizer(EMBEDDED / tokenizer_name(0), bundle.manifest.texts[0].tokens).encode(
        read_classes(path)
    )


def _manifest(content: bytes) -> object:
    """A manifest, sealed anew as whoever wants to deceive would."""
    try:
        values = json.loads(content)
        if isinstance(values, dict) and DIGEST in values:
            values[DIGEST] = digest(values)
    except (ValueError, RecursionError):
        return None
    return Manifest.from_json(values)


def _small_tokenizer() -> bytes:
    """The embedded model's, with a few of its words: mutations hit what matters."""
    values = json.loads((EMBEDDED / tokenizer_name(0)).read_text(encoding="utf-8"))
    model = values["model"]
    model["vocab"] = dict(list(model["vocab"].items())[:400])
    model["merges"] = [
        pair
        for pair in model["merges"]
        if all(part in model["vocab"] for part in (pair.split() if isinstance(pair, str) else pair))
        and "".join(pair.split() if isinstance(pair, str) else pair) in model["vocab"]
    ]
    return json.dumps(values).encode()


def _sidecar(manifest: Manifest) -> PlanRecord:
    span, shapes = Range(1, 1, 4), Shapes((1, 77), (1, 77), (4, 77))
    return PlanRecord(
        graph=manifest.network,
        sources=sources(manifest, manifest.network),
        library="tensorrt-rtx",
        library_version="1.7",
        created_by="1",
        precision="fp32",
        profile={"batch": span, "size": Range(256, 256, 512)},
        shapes={"input_ids": shapes},
        compute_capabilities=("8.9",),
        options=BuildOptions(1, 3, False, False),
        layers=1,
        kernels=Kernels(1, 0, 0),
        plan=FileRecord("0" * 64, 6),
        seconds=1.0,
        proof=Proof(),
    )


def _engine(folder: Path, manifest: Manifest, content: bytes) -> Mapping[str, Any]:
    for graph in graph_names(manifest):
        (folder / plan_name(graph)).write_bytes(b"engine")
        (folder / sidecar_name(graph)).write_bytes(content)
    return check_plans(folder, manifest, plan_name(manifest.network))


_META: Final = {"dataset": "attack", "classes": [["sky"], ["sea"]]}


def _results(folder: Path) -> bytes:
    path = folder / RESULTS
    store = Store(path, _META)
    store.add("a", {"s": np.eye(3, dtype=np.int64)}, {"s": np.ones((2, 3), np.int64)})
    store.add_fitted("s", [np.ones((2, 3), np.float32)])
    store.add_problem("b", "it was not there")
    store.close()
    with sqlite3.connect(path) as database:  # all of it in the one file
        database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    return path.read_bytes()


def _counts(path: Path) -> object:
    for beside in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    store = Store(path)
    try:
        found = [store.counts(key) + store.boundaries(key) for key in store.settings()]
        return found, store.done(), store.problems(), store.fitted("s"), store.seconds("s", {"a"})
    finally:
        store.close()


def _journal(folder: Path, content: bytes) -> None:
    """What a folder that passes for a committed set makes `recover` do: nothing outside."""
    place, outside = folder / "place", folder / "x"
    place.mkdir(exist_ok=True)
    whole = place / f".mdrt-attack{WHOLE}"
    whole.mkdir(exist_ok=True)
    (whole / "a").write_text("new")
    (place / "b").write_text("another's")
    outside.write_text("outside")
    (whole / ".journal").write_bytes(content)
    recover(place)
    assert outside.read_text() == "outside"
    assert (place / "b").read_text() == "another's"
