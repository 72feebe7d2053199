"""From a raster to a raster: see every block, average over all, label every block, write.

The networks run once. What they show is kept on the disk, since it takes all of it to know a
class's prototype (Eq. 5) and only then can a pixel be assigned (Eq. 6). Both sums of Eq. 5 add up
over blocks, so the result is that of the raster as one picture, however it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import __version__, kernels
from ...kernels import Array, Grid, void
from ...kernels.grid import label_type
from ..errors import ImageError, MdrtError
from ..heads import HEADS, Head, Reading
from ..labels import label_pixels
from ..look.clock import StageClock
from ..look.prompts import ClassName
from ..look.words import EncodedText
from ..pictures.output import check_targets, printable, write_record
from ..pictures.render import colours
from ..segmentation import describe
from ..segmenter import Count, Segmenter
from .averaging import (
    Maps,
    clustered_prototypes,
    stored_features,
    whole_maps,
    whole_prototypes,
)
from .geotiff import Raster, small_cache, write_labels
from .lattice import Lattice, Window, lead_of
from .seeing import BlockTaps, features_of, levels, map_cell, maps_of
from .store import Store

MAX_PIXELS: Final = 2_000_000_000
"""Pixels of a raster that is not refused: more than 40,000² has."""

MARGIN: Final = 2
"""Coarsest cells around a block that its labels depend on: a pixel's features are of two cells, and
the filters along edges reach four of the finest."""

Progress = Callable[[str, float, int], None]
"""Told what is gone through (seeing, labelling, writing), how many blocks are done, and of how
many; what was done before an interruption is done from the start."""


def result_files(target: Path) -> dict[str, Path]:
    """Labels and record of a raster."""
    return {"labels": target, "record": target.with_name(f"{target.stem}.json")}


def state_folder(target: Path) -> Path:
    """What is kept beside a result until it is written."""
    return target.with_name(f".{target.name}.mdrt")


def can_read(head: Head) -> bool:
    """Whether a head can read a raster: its prototypes are sums, or of clustered features."""
    return head.name in ("maskdiffusion", "attention") or head.taps == ("features",)


def segment_raster(
    segmenter: Segmenter,
    source: Path,
    target: Path,
    head: Head,
    classes: Sequence[ClassName] | None = None,
    segments: Count = "auto",
    *,
    bands: Sequence[int] | None = None,
    background: str | None = None,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
    **settings: Any,
) -> dict[str, Any]:
    """Segment a raster into a GeoTIFF of labels, beside which its record is written.

    Args:
        segmenter: the loaded model.
        source: a raster that GDAL reads.
        target: of the labels, `.tif`.
        head: one that `can_read` a raster.
        classes: names, of a named head.
        segments: how many, of an unnamed head; one prototype each, of cells from all over.
        bands: those of red, green and blue, from 1; one is grey. None: the first three.
        background: a class that is black.
        max_pixels: of a raster that is not refused.
        overwrite: whether files of other origin are replaced.
        progress: what is told how far it is.
        settings: of the head.

    Returns:
        The record.

    Raises:
        MdrtError: the head cannot read rasters, or a setting is wrong.
        ImageError: the raster cannot be read, is too large or has no data.
        OutputError: the result cannot be written, or there is no room for it.
    """
    if not can_read(head):
        fitting = ", ".join(name for name, other in HEADS.items() if can_read(other))
        raise MdrtError(
            f"head {head.name} reads a picture as one square, which a raster is not; "
            f"choose of {fitting}",
            head=...,
        )
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise MdrtError(f"{target} is no name of a GeoTIFF; expected one that ends in .tif")
    options = segmenter.settle(head, **settings)
    if getattr(options, "scales", False):
        raise MdrtError(
            "scales is of pictures, and a raster is seen in tiles of one size; give scales=no"
        )
    check_targets([result_files(target)], [source], overwrite)
    with small_cache(), Raster(source, bands, max_pixels) as raster:
        job = _Job(segmenter, raster, target, head, options, classes, segments, progress)
        with segmenter.network.device.active():
            return job.run(background)


@dataclass(frozen=True)
class _Known:
    """What is known of the whole raster when all of it was seen."""

    names: tuple[str, ...]
    prototypes: list[Array]
    maps: Maps | None = None
    absent: NDArray[np.bool_] | None = None


class _Job:
    """One raster on its way."""

    def __init__(
        self,
        segmenter: Segmenter,
        raster: Raster,
        target: Path,
        head: Head,
        options: Any,
        classes: Sequence[ClassName] | None,
        segments: Count,
        progress: Progress,
    ) -> None:
        network, manifest = segmenter.network, segmenter.manifest
        self.segmenter, self.network, self.raster, self.target = segmenter, network, raster, target
        self.head, self.options, self.segments = head, options, segments
        self.progress, self.clock = progress, StageClock(network.device)
        self.text: EncodedText | None = None
        if classes is not None:
            with self.clock.stage("text"):
                self.text = segmenter.prepare(classes)
        plain = Lattice(raster.size, manifest.image.native_size, manifest.image.size_multiple)
        lead = lead_of(raster.corner, plain.step)
        self.lattice = Lattice(raster.size, plain.tile, plain.multiple, lead)
        self.margin = MARGIN * manifest.image.size_multiple
        self.levels = levels(network, head, options)
        self.cell = (
            min(stride for stride, _ in self.levels.values())
            if self.text is None
            else map_cell(network, options)
        )
        self.store = Store(state_folder(target), self.lattice.blocks())

    def run(self, background: str | None) -> dict[str, Any]:
        """All of it; the record."""
        self.store.begin(self._described(), self._bytes())
        self._see()
        known = self._average()
        self._label(known)
        return self._write(known, background)

    def _see(self) -> None:
        """What the networks show of every block, on the disk."""
        for done, index in self._todo("seeing", "valid"):
            block = self.store.blocks[index]
            with self.clock.stage("image"):
                image = self.raster.read(self.lattice.seen(block), self.lattice.lead)
                mask = self.raster.valid(block, self.lattice.lead)
            found = self._shown(block, image, done) if mask.any() else {}
            for name, (stride, channels) in self._arrays().items():
                nothing = np.zeros((channels, *block.cells(stride).size), np.float32)
                self.store.put(index, name, found.get(name, nothing))
            pixels = image[block.slices(self.lattice.seen(block))][mask if mask.any() else ~mask]
            self.store.put(index, "colours", np.stack([pixels.min(axis=0), pixels.max(axis=0)]))
            rows, columns = block.cells(self.cell).size
            cells = mask.reshape(rows, self.cell, columns, self.cell).mean(axis=(1, 3))
            self.store.put(index, "valid", cells.astype(np.float32)[None])  # last: it is whole
            self.progress("seeing", done + 1, len(self.store.blocks))

    def _shown(
        self, block: Window, image: NDArray[np.uint8], done: int
    ) -> dict[str, NDArray[np.float32]]:
        """What the networks show of a block: `_arrays`, on the host."""
        canvas, seen = self.lattice.canvas(block), self.lattice.seen(block)
        within = self._within("seeing", done)
        whole = BlockTaps(self.network, image, self.clock, canvas, within)
        taps, arrays = whole.mirrored(self.options.mirror), []
        if self.text is not None:  # first: its pass may give the features too
            arrays.append(maps_of(taps, self.options, self.text, self.cell))
        if self.levels:
            arrays += features_of(taps, self.options, self.text)
        own = []
        for values, (stride, _) in zip(arrays, self._arrays().values(), strict=True):
            rows, columns = block.cells(stride).slices(seen.cells(stride))
            own.append(values[:, rows, columns])
        held = map(np.ascontiguousarray, self.network.device.download(*own)())
        return dict(zip(self._arrays(), held, strict=True))

    def _average(self) -> _Known:
        """What is known of all blocks together.

        Raises:
            ImageError: none has data.
        """
        if not any(self.store.get(i, "valid").any() for i in range(len(self.store.blocks))):
            self.store.sweep()
            raise ImageError(f"raster {self.raster.path} has no pixel with data")
        store, lattice, levels = self.store, self.lattice, self.levels
        with self.clock.stage("prototypes"):
            if self.text is None:
                prototypes = clustered_prototypes(
                    self.network,
                    store,
                    lattice,
                    levels,
                    self.head,
                    self.options,
                    self.segments,
                    self.clock,
                )
                names = tuple(f"segment {i + 1}" for i in range(len(prototypes[0])))
                return _Known(names, prototypes)
            names, maps = self.text.prompts.classes, whole_maps(store, self.options.pooling)
            assert maps is not None
            if not levels:
                return _Known(names, [], maps)
            presence = self.options.presence
            absent = kernels.absent(maps.won, presence) if presence else None
            prototypes = whole_prototypes(
                self.network, store, lattice, self.margin, levels, maps, self.cell, self.options
            )
            return _Known(names, prototypes, maps, absent)

    def _label(self, known: _Known) -> None:
        """Every block's labels, on the disk, and for each class pixels and confidence in all."""
        classes = len(known.names)
        for done, index in self._todo("labelling", "totals"):
            block = self.store.blocks[index]
            own = block.common(self.lattice.raster)
            mask = self.raster.valid(own, self.lattice.lead)
            labels = np.full(own.size, np.iinfo(label_type(classes)).max, label_type(classes))
            totals = np.zeros((2, classes))
            if mask.any():
                window = self.lattice.around(block, self.margin)
                taps = BlockTaps(
                    self.network, self.raster.read(window, self.lattice.lead), self.clock
                )
                with self.clock.stage("assign"):
                    assigned, _ = label_pixels(
                        taps,
                        self._reading(known, window),
                        self.options.refine,
                        self.options.threshold,
                    )
                    assert assigned.confidence is not None
                    rows, columns = own.slices(window)
                    found, confidence = self.network.device.download(
                        assigned.labels[rows, columns], assigned.confidence[rows, columns]
                    )()
                labels[mask] = found[mask]
                held = labels != void(labels)
                totals[0] = np.bincount(labels[held], minlength=classes)[:classes]
                totals[1] = np.bincount(labels[held], confidence[held], classes)[:classes]
            self.store.put(index, "labels", labels)
            self.store.put(index, "totals", totals)
            self.progress("labelling", done + 1, len(self.store.blocks))

    def _reading(self, known: _Known, window: Window) -> Reading:
        """Scores of a part of the lattice, by what is known of the whole."""
        device = self.network.device
        features = stored_features(self.network, self.store, self.levels, window)
        maps = None
        if known.maps is not None:
            values = known.maps(self.store.window("maps", window, self.cell))
            maps = Grid(device.upload(values))
        if not known.prototypes:
            assert maps is not None
            return Reading([maps], maps)
        scores = kernels.score_maps(features, known.prototypes, self.options.mode)
        absent = None if known.absent is None else device.upload(known.absent)
        share = getattr(self.options, "attention", 0.0)
        return Reading(scores, maps or scores[0], features, maps, share, absent)

    def _write(self, known: _Known, background: str | None) -> dict[str, Any]:
        """Labels and record; then what was kept goes."""
        names = known.names
        every = range(len(self.store.blocks))
        self.progress("writing", 0, len(every))
        counts, sums = np.sum([self.store.get(index, "totals") for index in every], axis=0)
        order = np.arange(len(names))
        if self.text is None:  # the largest segment is the first
            order = np.argsort(-counts, kind="stable")
            counts, sums = counts[order], sums[order]
        kind = label_type(len(names))
        places = np.full(np.iinfo(kind).max + 1, np.iinfo(kind).max, kind)
        places[order] = np.arange(len(order))
        write_labels(
            self.target,
            self.store.folder,
            self.raster.size,
            self.raster.place,
            self._labels(places),
            names,
            colours(names, background),
            int(np.iinfo(kind).max),
            lambda done: self.progress("writing", done, len(self.store.blocks)),
        )
        settings, network = self.raster.stretch, self.network
        absent = [] if known.absent is None else [names[i] for i in np.flatnonzero(known.absent)]
        asked: dict[str, Any] = (
            {"segments": self.segments}
            if self.text is None
            else {"prompts": list(self.text.prompts.texts)}
        )
        used = {
            "head": self.head.name,
            **vars(self.options),
            **asked,
            "max_size": None,
            "absent": absent,
            "backend": network.backend.name,
            "nodes": network.nodes or None,
            "operators": network.backend.operators,
            "tiles": self._tiles(),
            "network_size": list(self.raster.size),
            "bands": self.raster.bands,
            "stretch": None
            if settings is None
            else [settings.low.tolist(), settings.high.tolist()],
        }
        record = describe(
            source=str(self.raster.path),
            size=self.raster.size,
            model=self.segmenter.manifest.model_id,
            bundle=self.segmenter.manifest.sha256,
            classes=names,
            counts=counts,
            sums=sums,
            background=background,
            settings=used,
            seconds=self.clock.seconds(),
        )
        files = result_files(self.target)
        record["files"] = {kind: printable(path) for kind, path in files.items()}
        write_record(files["record"], record)
        self.store.sweep()
        return record

    def _labels(self, places: NDArray[Any]) -> Iterator[tuple[tuple[int, int], NDArray[Any]]]:
        top, left = self.lattice.lead
        for index, block in enumerate(self.store.blocks):
            own = block.common(self.lattice.raster)
            if own.top < own.bottom and own.left < own.right:
                labels = places[np.asarray(self.store.get(index, "labels"))]
                yield (own.top - top, own.left - left), labels

    def _arrays(self) -> dict[str, tuple[int, int]]:
        """What is kept of a block beside what has data: name → stride and channels."""
        maps = {} if self.text is None else {"maps": (self.cell, len(self.text.prompts.classes))}
        return maps | self.levels

    def _bytes(self) -> int:
        """That all of it takes on the disk."""
        pixels = self.raster.size[0] * self.raster.size[1]
        numbers = sum(channels / stride**2 for stride, channels in self._arrays().values())
        labels = 4 if self.text is not None and len(self.text.prompts.classes) > 255 else 2
        return int(pixels * (4 * numbers + 2 * labels))

    def _tiles(self) -> int:
        """That the networks saw, those at the borders of blocks as often as they ran."""
        return sum(len(self.lattice.canvas(block).origins) for block in self.store.blocks)

    def _todo(self, what: str, mark: str) -> Iterator[tuple[int, int]]:
        """How many blocks are done, and one that is not; those with a mark are."""
        every = range(len(self.store.blocks))
        left = [index for index in every if not self.store.has(index, mark)]
        done = len(every) - len(left)
        self.progress(what, done, len(every))
        return ((done + place, index) for place, index in enumerate(left))

    def _within(self, what: str, done: int) -> Callable[[int, int], None]:
        """Tells of a block under way, of which each pass is an equal share."""
        passes = 1 + (
            self.text is not None and bool(self.levels) and self.options.mode == "released"
        )
        passes *= 1 + self.options.mirror
        ended = 0

        def tell(ran: int, total: int) -> None:
            nonlocal ended
            share = (ended + ran / total) / passes
            self.progress(what, done + min(share, 1.0), len(self.store.blocks))
            ended += ran == total

        return tell

    def _described(self) -> Mapping[str, Any]:
        """All that the result depends on."""
        stat, stretch = self.raster.path.stat(), self.raster.stretch
        text = None if self.text is None else self.text.prompts
        return {
            "mdrt": __version__,
            "bundle": self.segmenter.manifest.sha256,
            "backend": [self.network.backend.name, self.network.backend.operators],
            "raster": [str(self.raster.path.resolve()), stat.st_size, stat.st_mtime_ns],
            "bands": self.raster.bands,
            "stretch": None if stretch is None else [stretch.low.tolist(), stretch.high.tolist()],
            "lattice": [*self.lattice.size, self.lattice.step, *self.lattice.lead],
            "blocks": len(self.store.blocks),
            "head": self.head.name,
            "settings": {name: _plain(value) for name, value in vars(self.options).items()},
            "segments": self.segments if text is None else None,
            "texts": None if text is None else [list(text.texts), text.owner.tolist()],
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
