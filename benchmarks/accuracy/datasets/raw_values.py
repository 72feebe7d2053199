"""Raw mask values to class indices, as published; 255 does not count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

VOID: Final = 255
UNKNOWN: Final = 254
"""In a table: a raw value that no mask may hold."""

ValueTable = NDArray[np.uint8]


def _table(classes: Mapping[int, int], void: tuple[int, ...]) -> ValueTable:
    """(256,) raw value → class index, `VOID` or `UNKNOWN`."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[list(void)] = VOID
    for raw, index in classes.items():
        table[raw] = index
    return table


def shifted(classes: int, first: int = 0, void: tuple[int, ...] = (255,)) -> ValueTable:
    """Raw values `first` … in the order of the classes."""
    return _table({first + index: index for index in range(classes)}, void)


# cityscapesScripts, helpers/labels.py: the ids with a trainId, in its order
_CITYSCAPES_TRAIN: Final = (
    7,
    8,
    11,
    12,
    13,
    17,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    31,
    32,
    33,
)
_CITYSCAPES_IDS: Final = tuple(range(34))

CITYSCAPES_19: Final = _table(
    {raw: index for index, raw in enumerate(_CITYSCAPES_TRAIN)},
    (*(raw for raw in _CITYSCAPES_IDS if raw not in _CITYSCAPES_TRAIN), 255),
)
# createTrainIdLabelImgs.py writes the classes themselves
CITYSCAPES_19_TRAIN: Final = shifted(19)
# PiCIE and STEGO (src/data.py): ids 7 … 33, those before are void
CITYSCAPES_27: Final = _table({7 + i: i for i in range(27)}, (*range(7), 255))

VOC_20: Final = shifted(20, 1, (0, 255))
VOC_21: Final = shifted(21)

ADE_150: Final = shifted(150, 1, (0, 255))
CONTEXT_59: Final = shifted(59, 1, (0, 255))
CONTEXT_60: Final = shifted(60)

# nightrome/cocostuff, labels.txt, from 1: things of COCO that nothing was annotated with
_COCO_MISSING: Final = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_COCO_IDS: Final = [raw for raw in range(1, 183) if raw not in _COCO_MISSING]

COCO_171_STUFFTHING: Final = _table({raw - 1: i for i, raw in enumerate(_COCO_IDS)}, (255,))
"""Pixel maps hold the id minus one; mmsegmentation's `labelTrainIds` are the classes themselves."""
COCO_171_TRAIN: Final = shifted(171)

# PiCIE's fine_to_coarse as STEGO writes it out (src/data.py), 182 raw values of the pixel maps in
# runs of (how many, coarse class)
_COCO_COARSE_RUNS: Final = (
    (1, 9), (8, 11), (6, 8), (10, 7), (8, 6), (10, 10), (8, 5), (10, 2), (10, 3), (6, 0), (6, 1),
    (8, 4), (2, 17), (1, 22), (2, 20), (1, 22), (1, 15), (1, 25), (1, 16), (1, 13), (2, 12),
    (2, 17), (1, 23), (2, 15), (1, 17), (1, 15), (1, 21), (1, 15), (1, 25), (5, 13), (1, 22),
    (1, 26), (2, 14), (1, 15), (1, 22), (2, 21), (1, 24), (1, 20), (1, 22), (1, 15), (1, 17),
    (1, 16), (1, 15), (1, 22), (1, 24), (1, 21), (1, 17), (1, 25), (1, 16), (1, 21), (1, 17),
    (1, 22), (1, 16), (2, 21), (1, 25), (1, 21), (1, 26), (1, 21), (1, 24), (1, 20), (1, 17),
    (1, 14), (1, 21), (1, 26), (1, 15), (1, 23), (1, 20), (1, 21), (1, 24), (1, 15), (1, 24),
    (1, 22), (1, 25), (1, 15), (1, 20), (2, 17), (1, 22), (1, 14), (7, 18), (2, 26), (2, 19),
    (1, 24),
)  # fmt: skip
_COCO_COARSE: Final = [coarse for count, coarse in _COCO_COARSE_RUNS for _ in range(count)]

COCO_27_STUFFTHING: Final = _table(dict(enumerate(_COCO_COARSE)), (255,))
COCO_27_TRAIN: Final = _table({i: _COCO_COARSE[raw - 1] for i, raw in enumerate(_COCO_IDS)}, (255,))

# ISPRS Potsdam's label colours, in the order of mmsegmentation's classes
POTSDAM_COLOURS: Final = (
    (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0),
)  # fmt: skip
# mmsegmentation, dataset_converters/potsdam.py; val is the challenge's test set
_POTSDAM_AREAS: Final = {
    "train": "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 "
    "6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12",
    "val": "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13",
}
POTSDAM_MEMBERS: Final = {
    split: frozenset(f"top_potsdam_{area}" for area in areas.split())
    for split, areas in _POTSDAM_AREAS.items()
}
# without the eroded boundaries, which are black
POTSDAM_6: Final = shifted(6, 0, (6, 255))
POTSDAM_6_TILES: Final = shifted(6, 1, (0, 255))
# STEGO's src/data.py: roads and cars, buildings and clutter, vegetation and trees
_POTSDAM_COARSE: Final = (0, 1, 2, 2, 0, 1)
POTSDAM_3: Final = _table(dict(enumerate(_POTSDAM_COARSE)), (6, 255))
POTSDAM_3_TILES: Final = _table({1 + i: c for i, c in enumerate(_POTSDAM_COARSE)}, (0, 255))
