"""The result for one picture."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import __version__
from ..kernels import Array, Grid
from .pictures import output, render
from .pictures.bands import totals
from .pictures.palette import hexadecimal

SCHEMA: Final = 4
"""Version of the JSON record's layout."""


@dataclass(frozen=True, repr=False)
class Segmentation:
    """What a head made of one picture.

    Attributes:
        labels: (H, W) uint8 or, of more than 255 classes, uint16: index into `classes`; the type's
            largest value, `kernels.void`, is no class.
        classes: names; "segment 1", … where there were none.
        confidence: (H, W) float32, the winning score: of heads with prototypes the cosine of each
            pixel's features to its class's (in mode "released" times the prototype's length), mixed
            with its class map by `attention`; of others the winning map. What `refine` made of it,
            if that was asked for. Comparable within one picture.
        scores: (classes, H, W) float32, the same for every class, those taken to be absent
            (`presence`) included; None unless asked for.
        weights: the map of every class or segment that the head averaged its prototype with, or
            took for its score: a grid of (classes, rows, columns) float32.
        timings: seconds per stage, in the order in which they ran, of what this call computed: what
            its look had already is not there; on a GPU, of its own clock.
        settings: what was used: the head, its every option, the classes taken to be absent, the
            backend, nodes of each graph by ONNX Runtime's provider (None on the CPU), the
            operators, tiles and the network's size.
        image: (H, W, 3) uint8 RGB, the picture.
        source: where it is from, None where that is not known.
        model: of the bundle.
        bundle: its digest, that of its every file.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    classes: tuple[str, ...]
    confidence: Array
    scores: Array | None
    weights: Grid
    timings: dict[str, float]
    settings: dict[str, Any]
    image: NDArray[np.uint8]
    source: str | None
    model: str
    bundle: str

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = dict(zip(self.classes, self.shares, strict=True))
        found = ", ".join(f"{name} {render.percent(shares[name])}" for name in self.found[:6])
        more = f" and {len(self.found) - 6} more" if len(self.found) > 6 else ""
        picture = f"{self.source}, " if self.source else ""
        return f"<Segmentation of {picture}{width}×{height}: {found or 'nothing'}{more}>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.overlay().save(file, format="PNG")
        return file.getvalue()

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(classes,) share of the pixels that each class covers, in [0, 1]."""
        return self.totals() / self.labels.size

    @property
    def found(self) -> tuple[str, ...]:
        """The classes that have a pixel, by share."""
        order = np.argsort(-self.shares, kind="stable")
        return tuple(self.classes[i] for i in order if self.shares[i])

    def totals(self, values: Array | None = None) -> NDArray[np.float64]:
        """(classes,) sum of `values` (H, W) over each class's pixels; of None, their number."""
        return totals(self.labels, len(self.classes), values)

    def overlay(self, background: str | None = None) -> Image.Image:
        """The picture under its classes' colours, with their outlines, names and a legend.

        Args:
            background: a class left uncoloured.
        """
        return render.overlay(self.image, self.labels, self.classes, background)

    def label_image(self, background: str | None = None) -> Image.Image:
        """The labels as a palette image, as 16-bit grey for more than 255 classes."""
        return render.label_image(self.labels, self.classes, background)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        background: str | None = None,
        overlay: bool = True,
        overwrite: bool = False,
    ) -> dict[str, str]:
        """Write labels, overlay and record: for "out/beach" or "out/beach.png" the files
        out/beach.png, out/beach.overlay.png and out/beach.json. Earlier results are replaced.

        Args:
            path: of the labels; or a folder that exists, for the picture's own name in it.
            background: a class left uncoloured.
            overlay: whether to write it too.
            overwrite: whether to replace files of other origin too; the picture itself never is.

        Returns:
            "labels", "overlay" and "record", each with its path.

        Raises:
            OutputError: a file cannot be written, or would replace one that may not be replaced.
        """
        target = Path(path)
        if target.is_dir():
            target /= Path(self.source or "picture").stem
        target = target.with_name(target.name.removesuffix(".png"))
        sources = [] if self.source is None else [self.source]
        seen = output.check_targets([output.result_files(target, overlay)], sources, overwrite)
        with output.output_folder(target.parent):
            record = output.write_result(target, self, background, overlay, seen)
        files: dict[str, str] = record["files"]
        return files

    def record(self, background: str | None = None) -> dict[str, Any]:
        """What the JSON record holds, but for the paths of the files."""
        return describe(
            source=self.source,
            size=(self.labels.shape[0], self.labels.shape[1]),
            model=self.model,
            bundle=self.bundle,
            classes=self.classes,
            counts=self.totals(),
            sums=self.totals(self.confidence),
            background=background,
            settings=self.settings,
            seconds=self.timings,
        )


def describe(
    *,
    source: str | None,
    size: tuple[int, int],
    model: str,
    bundle: str,
    classes: Sequence[str],
    counts: NDArray[np.float64],
    sums: NDArray[np.float64],
    background: str | None,
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """A record: what is told of a result, whatever it was made of.

    Args:
        source, model, bundle, classes, settings: as of a `Segmentation`.
        size: (H, W).
        counts, sums: (classes,) pixels of each class, and their confidence in all.
        background: the class left uncoloured.
        seconds: by stage.
    """
    paint, pixels = render.colours(classes, background), size[0] * size[1]
    used = sys.modules.get("onnxruntime")  # engines run without it
    return {
        "schema": SCHEMA,
        "image": None if source is None else output.printable(source),
        "size": list(size),
        "model": model,
        "bundle": bundle,
        "background": background,
        "classes": [
            {
                "label": label,
                "name": name,
                "colour": hexadecimal(paint[label]),
                "pixels": int(counts[label]),
                "share": round(float(counts[label] / pixels), 6),
                "confidence": round(float(sums[label] / counts[label]), 6)
                if counts[label]
                else None,
            }
            for label, name in enumerate(classes)
        ],
        "void": pixels - int(counts.sum()),
        "settings": settings,
        "seconds": {stage: round(passed, 6) for stage, passed in seconds.items()},
        "versions": {
            "mdrt": __version__,
            **({"onnxruntime": used.__version__} if used else {}),  # whichever package's it is
            "numpy": np.__version__,
        },
    }


def by_share(result: Segmentation) -> Segmentation:
    """Unnamed segments in the order of their shares, the largest first."""
    order = np.argsort(-result.totals(), kind="stable")
    places = np.arange(np.iinfo(result.labels.dtype).max + 1)
    places[order] = np.arange(len(order))
    labels: NDArray[Any] = places.astype(result.labels.dtype)[result.labels]
    return replace(
        result,
        labels=labels,
        scores=None if result.scores is None else result.scores[order],
        weights=replace(result.weights, values=result.weights.values[order]),
    )
