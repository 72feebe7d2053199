"""Kills at every call that changes the disk, over all that mdrt writes: what is left must be the
old or the new, whole, once the next run has looked."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock
from xml.etree import ElementTree

import click
import numpy as np
from PIL import Image

from ....benchmarks.accuracy.store import RESULTS, Store
from ....cli import main
from ....export.engines import build as engines
from ....export.engines.builder import Engine
from ....export.engines.options import EngineOptions
from ....export.staging import staged
from ....runtime.batch.shards import finished
from ....runtime.batch.stores import Store as Shards
from ....runtime.bundle.contract import MANIFEST
from ....runtime.bundle.loading import load_bundle
from ....runtime.bundle.plan import BuildOptions, Kernels, plan_name, sidecar_name
from ....runtime.disk.atomic import PREFIX, recover, write_together
from ....runtime.errors import MdrtError
from ....runtime.pictures.output import output_folder, read_record, result_files, write_result
from ....runtime.segmentation import Segmentation
from ....runtime.segmenter import EMBEDDED, Segmenter
from ....runtime.sessions.library import Library
from ....runtime.writers.folder import check_folder
from ..scenes.renderer import render
from .shim import (
    CLOCKS,
    DISK_FULL,
    ENDED,
    INTERRUPT,
    KILL_AFTER,
    KILL_BEFORE,
    REFUSED,
    TERMINATE,
    in_child,
)


@dataclass(frozen=True)
class Scenario:
    """One thing that is written over an older one.

    Attributes:
        name: the command's.
        old: puts the older one into an empty folder.
        new: writes the newer one over it.
        found: what a run finds there, as "old" or "new"; anything else is a finding.
    """

    name: str
    old: Callable[[Path], object]
    new: Callable[[Path], object]
    found: Callable[[Path], str]


class Finding(Exception):
    """What must not be."""


def kill_everywhere(scenario: Scenario, folder: Path, step: int = 1, first: int = 1) -> int:
    """Kill a writer before and after every call, and fill the disk at every call.

    Args:
        folder: to work in.
        step: of calls; 1 for every one.
        first: call.

    Returns:
        How many kills there were.

    Raises:
        Finding: something else than the old or the new was left, a full disk ended in a surprise,
            or something is left of what was under way.
    """
    kills = 0
    for fault in (KILL_BEFORE, KILL_AFTER, DISK_FULL):
        for at in range(first, 10_000, step):
            status, _ = _faulted(scenario, folder, fault, at)
            if status == ENDED:  # so many calls there are not
                break
            kills += fault != DISK_FULL
    return kills


def interrupt_everywhere(
    scenario: Scenario, folder: Path, step: int = 1, first: int = 1, clocks: int = 3
) -> int:
    """Send a writer SIGINT and SIGTERM at every call, and let clocks jump under it.

    Args:
        folder, step, first: as for kills.
        clocks: how many.

    Returns:
        How many signals and clocks there were.

    Raises:
        Finding: as for kills; or a clock was no matter of indifference.
    """
    done = 0
    signals = range(first, 10_000, step)
    for fault, places in ((INTERRUPT, signals), (TERMINATE, signals), (CLOCKS, range(clocks))):
        for at in places:
            _, calls = _faulted(scenario, folder, fault, at)
            if fault != CLOCKS and calls < at:  # so many calls there are not
                break
            done += 1
    return done


def _faulted(scenario: Scenario, folder: Path, fault: int, at: int) -> tuple[int, int]:
    """The end of a writer with a fault at a call, and how many calls it came to."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    scenario.old(place)
    status, calls = in_child(fault, at, partial(scenario.new, place))
    _judge(scenario, place, f"{scenario.name}, fault {fault} at call {at}", status, fault)
    return status, calls


_MAY_END: Final = {
    KILL_BEFORE: (ENDED, -signal.SIGKILL),
    KILL_AFTER: (ENDED, -signal.SIGKILL),
    DISK_FULL: (ENDED, REFUSED),
    INTERRUPT: (ENDED, 128 + signal.SIGINT),
    TERMINATE: (ENDED, 128 + signal.SIGTERM),
    CLOCKS: (ENDED,),
}


def _judge(scenario: Scenario, place: Path, where: str, status: int, fault: int) -> None:
    if status not in _MAY_END[fault]:
        raise Finding(f"{where}: ended with status {status}")
    try:
        found = scenario.found(place)
    except Exception as error:
        raise Finding(f"{where}: {type(error).__name__}: {error}") from error
    if found not in ("old", "new") or (status == ENDED and found == "old"):
        raise Finding(f"{where}: left {found}")
    recover(place)
    if left := [path.name for path in place.rglob(f"{PREFIX}*")]:
        raise Finding(f"{where}: {left} is left")


def scenarios() -> Iterator[Scenario]:
    """Everything that replaces something of its own."""
    picture = render(0).image
    with Segmenter() as segmenter:
        results = {"old": segmenter(picture, ["sky", "water"]), "new": segmenter(picture, ["tree"])}
    yield Scenario(
        "segment",
        lambda place: write_result(place / "beach", results["old"]),
        lambda place: write_result(place / "beach", results["new"]),
        lambda place: _which_result(place, results),
    )
    yield Scenario("export", lambda p: _export(p, "old"), lambda p: _export(p, "new"), _which)
    yield Scenario("build", lambda p: _build(p, "old"), lambda p: _build(p, "new"), _which_engines)
    yield Scenario("eval", lambda p: _count(p, 1), lambda p: _count(p, 2), _which_counts)
    seen = _Seen(segmenter, results["old"])
    yield Scenario("batch", partial(_batched, seen=seen), partial(_batch, 2, seen), _which_shards)
    yield Scenario(
        "formats", partial(_formatted, seen=seen), partial(_format, 2, seen), _which_formats
    )


def torn() -> Scenario:
    """The control: a writer as naive as they come, which the campaign must catch."""

    def write(place: Path, text: str) -> None:
        for name in ("one", "two"):
            (place / name).write_text(text)

    def which(place: Path) -> str:
        texts = {(place / name).read_text() for name in ("one", "two")}
        return texts.pop() if len(texts) == 1 else "a mixture"

    return Scenario("control", lambda p: write(p, "old"), lambda p: write(p, "new"), which)


def _which_result(place: Path, results: Mapping[str, Segmentation]) -> str:
    """Of which result all files are."""
    recover(place)
    files = result_files(place / "beach")
    record = read_record(files["record"])
    if record is None:
        return "no record"
    labels = np.asarray(Image.open(files["labels"]))
    Image.open(files["overlay"]).load()
    names = tuple(entry["name"] for entry in record["classes"])
    for name, result in results.items():
        if result.classes == names and np.array_equal(labels, result.labels):
            return name
    return "a mixture"


def _export(place: Path, text: str) -> None:
    with staged(place / "bundle", overwrite=True) as aside:
        for name in (_UNET, MANIFEST):
            (aside / name).write_text(text)


def _which(place: Path) -> str:
    recover(place)
    texts = {(place / "bundle" / name).read_text() for name in (_UNET, MANIFEST)}
    return texts.pop() if len(texts) == 1 else "a mixture"


_UNET: Final = "unet.onnx"
_GPU: Final = "no GPU is asked for"


def _build(place: Path, text: str) -> None:
    """The builder's own order of files, of engines that nobody need run."""
    bundle = place / "bundle"
    if not bundle.exists():
        source = place.parent / "source"  # a copy: a link changes what it links to
        if not source.exists():
            shutil.copytree(EMBEDDED, source)
        shutil.copytree(source, bundle, copy_function=_link)

    def build(*_: object) -> Engine:
        plan = memoryview(text.encode())
        return Engine(plan, BuildOptions(1, 1, False, False), 1, Kernels(1, 0, 0), 0.0)

    with (
        mock.patch.object(engines, "build_engine", build),
        mock.patch.object(engines, "find_gpu", return_value=_GPU),
        mock.patch.object(engines, "check_gpu"),
    ):
        library = Library("tensorrt-rtx", None, "1")  # type: ignore[arg-type]
        engines.build_engines(load_bundle(bundle, verify=False), library, EngineOptions())


def _link(source: str, target: str) -> None:
    """A file that nobody writes into, once more."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _which_engines(place: Path) -> str:
    bundle = load_bundle(place / "bundle", verify=False)
    found = set()
    for graph in ("vae_encoder.onnx", "text_encoder.onnx", "keys.onnx", _UNET):
        text = (bundle.path / plan_name(graph)).read_text()
        sidecar = json.loads((bundle.path / sidecar_name(graph)).read_text())
        found.add(text if sidecar["plan"]["bytes"] == len(text) else "a mixture")
    return found.pop() if len(found) == 1 else "a mixture"


_META: Final = {"dataset": "attack"}


def _count(place: Path, pictures: int) -> None:
    store = Store(place / RESULTS, _META)
    for number in range(pictures):
        counts = {s: np.full((2, 2), number + 1) for s in ("a", "b")}
        store.add(f"{number}", counts, {})
    store.close()
    write_together({place / "report.json": lambda file: file.write(b"%d" % pictures)})


def _which_counts(place: Path) -> str:
    recover(place)
    with_all = Store(place / RESULTS, _META)
    done = with_all.done()
    with_all.close()
    if any(settings != {"a", "b"} for settings in done.values()) or "0" not in done:
        return f"parts of pictures: {done}"
    report = (place / "report.json").read_text()
    return {"1": "old", "2": "new"}.get(report, report)


class _Seen:
    """A segmenter that has seen every picture already, and its looks."""

    def __init__(self, segmenter: Segmenter, result: Segmentation) -> None:
        self.manifest, self.settle, self.result = segmenter.manifest, segmenter.settle, result
        self.network = segmenter.network

    def prepare(self, classes: object) -> None:
        """It needs no text."""

    def look(self, *_: object, **__: object) -> _Seen:
        return self

    def segment(self, *_: object, **__: object) -> Segmentation:
        return self.result


def _batched(place: Path, seen: _Seen) -> None:
    """The batch of one picture, made once."""
    _made_once(place, "batched", partial(_batch, 1, seen))


def _formatted(place: Path, seen: _Seen) -> None:
    """The folders of formats of one picture, made once."""
    _made_once(place, "formatted", partial(_format, 1, seen))


def _made_once(place: Path, name: str, make: Callable[[Path], object]) -> None:
    made = place.parent / name
    if not made.exists():
        make(place)
        (place / "labels").rename(made)
    shutil.copytree(made, place / "labels")


def _album(seen: _Seen, place: Path) -> list[str]:
    """Two pictures' paths; made once, with lists of the first and of both."""
    album = place.parent / "album"
    paths = [str(album / f"{number}.png") for number in range(2)]
    if not album.exists():
        album.mkdir()
        for number, path in enumerate(paths, 1):
            Image.fromarray(seen.result.image).save(path)
            (album / f"{number}.txt").write_text("\n".join(paths[:number]))
    return paths


def _batch(pictures: int, seen: _Seen, place: Path) -> None:
    """`mdrt batch` over so many pictures, each a shard of three formats."""
    listed = Path(_album(seen, place)[0]).with_name(f"{pictures}.txt")
    words = ["--shard", "1", "--format", "coco", "--format", "masks", "--format", "polygons"]
    _run(seen, "batch", str(listed), str(place / "labels"), *words)


def _format(pictures: int, seen: _Seen, place: Path) -> None:
    """`mdrt segment` over so many pictures into five formats, of what is not there yet."""
    words = [word for name in _FORMATS for word in ("--format", name)]
    pictured = _album(seen, place)[:pictures]
    _run(seen, "segment", *pictured, "--skip-existing", *words, "--out", str(place / "labels"))


def _run(seen: _Seen, *words: str) -> None:
    """A command, of pictures that are seen already."""
    with mock.patch("mdrt.runtime.segmenter.Segmenter", return_value=seen):
        try:
            main([*words, "--classes", "sky, water", "--quiet"], standalone_mode=False)
        except click.ClickException as error:
            if "--debug" in error.message:  # nothing that is told
                raise
            raise MdrtError(error.message) from error


_FORMATS: Final = ("coco", "coco-panoptic", "cvat", "masks", "voc")


def _which_formats(place: Path) -> str:
    """Of how many pictures the files of all formats are; what these name is there."""
    folders = place / "labels"
    with output_folder(folders):
        for name in _FORMATS:
            check_folder(folders / name, (), overwrite=False)
    coco = json.loads((folders / "coco" / "annotations.json").read_bytes())
    panoptic = json.loads((folders / "coco-panoptic" / "panoptic.json").read_bytes())
    voc = folders / "voc"
    listed = (voc / "ImageSets" / "Segmentation" / "default.txt").read_text().split()
    for name in listed:
        for path in (voc / "JPEGImages" / f"{name}.jpg", voc / "SegmentationClass" / f"{name}.png"):
            Image.open(path).load()
    of_images = {entry["image_id"] for entry in coco["annotations"]}
    if of_images != {image["id"] for image in coco["images"]}:
        return "torn annotations"
    for entry in panoptic["annotations"]:
        (path,) = (folders / "coco-panoptic").rglob(entry["file_name"])
        Image.open(path).load()
    for path in (folders / "masks").rglob("*.png"):
        Image.open(path).load()
    cvat = ElementTree.parse(folders / "cvat" / "annotations.xml").findall("image")
    counts = {len(listed), len(coco["images"]), len(panoptic["images"]), len(cvat)}
    return "new" if counts == {2} else "old"


def _which_shards(place: Path) -> str:
    """As a rerun judges: what whole shards hold is done."""
    shards = Shards(str(place / "labels"))
    shards.recover()
    done = finished(shards)
    for name in shards.shards():
        folder = place / "labels" / "shards" / name
        coco: dict[str, Any] = json.loads((folder / "coco" / "annotations.json").read_bytes())
        (image,) = coco["images"]
        if image["file_name"] not in done:
            return f"an unknown picture in shard {name}"
        masks = [Image.open(path).load() for path in (folder / "masks").rglob("*.png")]
        if len(masks) != len(coco["annotations"]):
            return f"a torn shard {name}"
    names = tuple(sorted(Path(name).name for name in done))
    return {("0.png",): "old", ("0.png", "1.png"): "new"}.get(names, f"{names}")
