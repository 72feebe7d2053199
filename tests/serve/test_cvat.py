"""CVAT's auto-annotation function, through the checks of cvat-sdk's own driver."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mdrt

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")

from cvat_sdk import models  # noqa: E402
from cvat_sdk.auto_annotation.driver import (  # noqa: E402
    _AnnotationMapper,
    _DetectionFunctionContextImpl,
)
from cvat_sdk.masks import decode_mask  # noqa: E402

FILE = Path(__file__).parents[2] / "runtime" / "serve" / "cvat.py"


def loaded(**parameters: Any) -> Any:
    """The function as cvat-cli loads it from a file."""
    common = pytest.importorskip("cvat_cli._internal.common", reason="needs cvat-cli")
    return common.FunctionLoader(None, FILE, parameters).load()


def of_task(names: list[str]) -> list[Any]:
    """Labels of a task, as the server gives them."""
    labels = [
        {"id": 40 + i, "name": name, "type": "any", "attributes": [], "sublabels": []}
        for i, name in enumerate(names)
    ]
    return [models.Label._from_openapi_data(**{**label, "_check_type": False}) for label in labels]


def test_masks_pass_the_checks_and_are_the_labels(
    picture: NDArray[np.uint8], segmenter: mdrt.Segmenter
) -> None:
    names = ["sky", "grass", "tree"]
    function = loaded(classes="sky, grass, tree", settings="refine=none")
    assert isinstance(function.spec, cvataa.DetectionFunctionSpec)
    mapper = _AnnotationMapper(
        logging.getLogger(),
        function.spec.labels,
        of_task(["other", *names]),
        allow_unmatched_labels=False,
        conv_mask_to_poly=False,
    )
    context = _DetectionFunctionContextImpl(frame_name="scene.png")
    shapes = function.detect(context, Image.fromarray(picture))
    tags, shapes = mapper.validate_and_remap(shapes, 3)
    assert tags == []
    expected = segmenter(picture, names, refine="none")
    height, width = expected.labels.shape
    found = np.full((height, width), 255)
    for shape in shapes:
        assert shape.frame == 3
        assert shape.type.value == "mask"
        mask = decode_mask(shape.points, image_width=width, image_height=height)
        found[mask] = shape.label_id - 41
    assert (found == expected.labels).all()


def test_a_threshold_leaves_pixels_out(picture: NDArray[np.uint8]) -> None:
    function = loaded(classes="sky, grass")
    context = SimpleNamespace(frame_name="a", conf_threshold=0.7, conv_mask_to_poly=False)
    shapes = function.detect(context, Image.fromarray(picture))
    masks = [decode_mask(s.points, image_width=256, image_height=256) for s in shapes]
    assert 0 < sum(mask.sum() for mask in masks) < 256 * 256


def test_polygons_are_refused_and_mistakes_told(picture: NDArray[np.uint8]) -> None:
    function = loaded(classes="sky, grass")
    context = SimpleNamespace(frame_name="a", conf_threshold=None, conv_mask_to_poly=True)
    with pytest.raises(cvataa.BadFunctionError, match="conv-mask-to-poly"):
        function.detect(context, Image.fromarray(picture))
    with pytest.raises(mdrt.MdrtError, match="did you mean threshold"):
        loaded(classes="sky", settings="treshold=1")
