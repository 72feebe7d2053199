"""Segmentation by the call that Hugging Face's `pipeline("image-segmentation")` has.

What took that pipeline's result takes this one's: a list of {"label", "score", "mask"}.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
from PIL import Image

from .errors import MdrtError, PromptError
from .look.prompts import ClassName
from .pictures.images import ImageLike
from .segmentation import Segmentation
from .segmenter import Count, Segmenter

TASK: Final = "image-segmentation"

Found: TypeAlias = list[dict[str, Any]]
"""Of one picture, an entry for each class that has a pixel, by label."""


def pipeline(
    task: str = TASK,
    model: str | Path | Segmenter | None = None,
    *,
    candidate_labels: Sequence[ClassName] | None = None,
    **options: Any,
) -> ImageSegmentation:
    """A pipeline as Hugging Face's, of a bundle.

    pipe = mdrt.pipeline("image-segmentation", model="sd15", candidate_labels=["dog", "street"])
    for found in pipe("photo.jpg"):
        found["label"], found["score"], found["mask"]

    Args:
        task: "image-segmentation".
        model: a bundle as `Segmenter` takes it, or a segmenter; None: the embedded model.
        candidate_labels: names for every call that gives none itself.
        options: of `Segmenter`, as `provider` and `threads`.

    Raises:
        MdrtError: it is another task; and what `Segmenter` raises.
    """
    if task != TASK:
        raise MdrtError(f"task is {task!r}, expected {TASK!r}")
    if isinstance(model, Segmenter):
        if options:
            raise MdrtError(f"options {', '.join(options)} are of a segmenter that is not yet made")
        return ImageSegmentation(model, candidate_labels)
    return ImageSegmentation(Segmenter(model, **options), candidate_labels)


class ImageSegmentation:
    """What `pipeline` makes.

    Attributes:
        task: "image-segmentation".
        segmenter: what segments.
    """

    def __init__(
        self, segmenter: Segmenter, candidate_labels: Sequence[ClassName] | None = None
    ) -> None:
        self.task, self.segmenter = TASK, segmenter
        self._labels = candidate_labels

    def __call__(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        *,
        candidate_labels: Sequence[ClassName] | None = None,
        segments: Count | None = None,
        subtask: str | None = None,
        **settings: Any,
    ) -> Found | list[Found] | Iterator[Found]:
        """Segment one picture, or several.

        Args:
            inputs: a picture, as for `read_image`: a path, bytes, an open file, a Pillow image, a
                uint8 array in RGB order (OpenCV's are BGR: turn them by `array[..., ::-1]`). Or a
                list of them; or another iterable, which is gone through as results are taken.
            candidate_labels: names; None: those of the pipeline, else those that the model knows.
            segments: how many segments without names, or "auto", instead.
            subtask: None, or "semantic", whose scores are None as Hugging Face's.
            settings: `head`, `max_size` and settings of the head, as `threshold`: scores under it
                are of no class, and in no mask.

        Returns:
            For one picture a list of {"label": name, "score": mean winning score of its pixels,
            "mask": Pillow image of mode L and the picture's size, 255 where the label is}; for a
            list of them a list of such lists.

        Raises:
            PromptError: there are no names.
            MdrtError: another subtask; and what `Segmenter` raises.
        """
        if subtask not in (None, "semantic"):
            raise MdrtError(f"subtask is {subtask!r}; classes are found, not things: 'semantic'")
        classes = None
        if segments is None:
            classes = candidate_labels or self._labels or self.segmenter.manifest.classes
            if not classes:
                raise PromptError('no names; give candidate_labels=["sky", "grass"], or segments=')
        scored, one = subtask is None, _is_picture(inputs)
        pictures = cast("Iterable[ImageLike]", [inputs] if one else inputs)
        results = self.segmenter.stream(pictures, classes, segments=segments, **settings)
        found = (_entries(cast(Segmentation, result), scored) for result in results)
        if one:
            return next(found)
        return list(found) if isinstance(inputs, Sequence) else found


def _is_picture(inputs: object) -> bool:
    """Whether this is one picture, right or wrong, rather than several."""
    alone = (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray, Image.Image)
    return isinstance(inputs, alone) or hasattr(inputs, "read") or not isinstance(inputs, Iterable)


def _entries(result: Segmentation, scored: bool) -> Found:
    pixels, sums = result.totals(), result.totals(result.confidence)
    return [
        {
            "score": float(sums[label] / pixels[label]) if scored else None,
            "label": result.classes[label],
            "mask": Image.fromarray((result.labels == label).astype(np.uint8) * 255),
        }
        for label in np.flatnonzero(pixels).tolist()
    ]
