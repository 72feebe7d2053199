"""Labels as other tools read them: one file a format, each made of the results of a run."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from .base import Format

PNG: Final = "png"
"""mdrt's own files, beside one another in the folder of the results; see `png.PngOutput`."""

FORMATS: Final = {
    PNG: "label map, overlay and record of each picture",
    "coco": "COCO: one JSON a run, masks as RLE",
    "coco-panoptic": "COCO panoptic: one JSON a run, a PNG of segment ids each",
    "voc": "Pascal VOC: pictures, palette PNGs, image sets, label map",
    "fiftyone": "FiftyOne: an ImageSegmentationDirectory",
    "labelstudio": "Label Studio: tasks with predictions, and the labelling config",
    "cvat": "CVAT for images 1.1: one XML a run, masks as RLE",
    "polygons": "GeoJSON and LabelMe, pixel-exact outlines",
    "npz": "NumPy arrays: labels, confidence, scores of all classes",
    "masks": "one PNG a class",
}
"""What `--format` takes, with what it is."""


def find_format(name: str) -> Format:
    """A format by its name in `FORMATS`, other than "png"."""
    module = import_module(f".{name.replace('-', '_')}", __package__)
    found: Format = module.FORMAT
    return found
