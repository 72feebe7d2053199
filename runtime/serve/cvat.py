"""CVAT's auto-annotation function: `cvat-cli task auto-annotate TASK --function-file` this file.

    cvat-cli task auto-annotate 7 --function-module mdrt.runtime.serve.cvat \\
        -p classes="str:sky, mountain, water" -p engine=str:sd15

It segments on the machine where cvat-cli runs; no server of mdrt's is needed.
"""

from __future__ import annotations

from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk import models
from PIL import Image

import mdrt
from mdrt.runtime.heads import find_head, parse
from mdrt.runtime.look.prompts import load_classes, shown_names
from mdrt.runtime.writers.cvat import boxed
from mdrt.runtime.writers.runs import class_runs


class Function:
    """A mask for every class that a picture shows.

    Attributes:
        spec: the labels that a task should have.
    """

    def __init__(
        self, segmenter: mdrt.Segmenter, classes: list[Any], head: str, settings: dict[str, Any]
    ) -> None:
        self._segmenter, self._classes = segmenter, classes
        self._head, self._settings = head, settings
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, label, type="mask")
                for label, name in enumerate(shown_names(classes))
            ]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """The masks of one picture.

        Raises:
            BadFunctionError: polygons are asked for.
        """
        if context.conv_mask_to_poly:
            raise cvataa.BadFunctionError(
                "mdrt gives masks, which no polygon holds exactly; leave --conv-mask-to-poly out"
            )
        settings = dict(self._settings)
        if context.conf_threshold is not None:
            settings["threshold"] = context.conf_threshold
        result = self._segmenter(image, self._classes, head=self._head, **settings)
        width = result.labels.shape[1]
        shapes = []
        for runs in class_runs(result.labels, len(result.classes)):
            lengths, box = boxed(runs, width)
            points = np.concatenate((lengths, box)).astype(float).tolist()
            shapes.append(cvataa.mask(runs.label, points))
        return shapes


def create(
    classes: str = "", engine: str = "", head: str = "maskdiffusion", settings: str = ""
) -> Function:
    """What cvat-cli calls, with what its `-p` says.

    Args:
        classes: names with commas between, or @FILE; the model's own if empty.
        engine: a bundle; the embedded model if empty.
        head: a named head.
        settings: of it, as "refine=guided, threshold=0.4".

    Raises:
        MdrtError: the model does not load, or names, head or settings are wrong.
    """
    segmenter = mdrt.Segmenter(engine or None)
    names: list[Any] = list(load_classes(classes) if classes else segmenter.manifest.classes)
    if not names:
        raise mdrt.PromptError('no class names; give -p classes="str:sky, grass"')
    texts: dict[str, str] = {}
    for setting in filter(None, settings.split(",")):
        name, _, value = (part.strip() for part in setting.partition("="))
        texts[name] = value
    given = parse(find_head(head), texts)
    segmenter.settle(head, **given)
    segmenter.prepare(names)
    return Function(segmenter, names, head, given)
