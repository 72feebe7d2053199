"""Optimisation profiles: how large a batch and a picture may be, and what the builder tunes for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ...runtime.bundle.contract import Manifest
from ...runtime.bundle.plan import Range, Shapes
from ...runtime.errors import EngineError
from ...runtime.look.taps import SCALES
from ...runtime.look.tiles import scaled

BATCH: Final = "batch"  # rows of a graph's inputs: tiles and prompts
SIZE: Final = "size"  # pixels of both sides of a picture or tile
DIMENSIONS: Final = (BATCH, SIZE)
_DEFAULT_BATCH: Final = Range(1, 1, 4)
_FORM: Final = "min:opt:max, or one number for a fixed size"


def parse_profiles(texts: Sequence[str]) -> dict[str, Range]:
    """Ranges by dimension, from texts such as `batch=1:1:4` or `size=512`.

    Raises:
        EngineError: an unknown or repeated dimension, no numbers, or not 1 ≤ min ≤ opt ≤ max.
    """
    ranges: dict[str, Range] = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        if name not in DIMENSIONS:
            raise EngineError(
                f"profile {text!r} names no dimension; expected one of {', '.join(DIMENSIONS)}, "
                f"as in {BATCH}={_DEFAULT_BATCH}"
            )
        if name in ranges:
            raise EngineError(f"profile {name} is given twice")
        ranges[name] = _parse_range(text, numbers)
    return ranges


def complete(asked: Mapping[str, Range], manifest: Manifest) -> dict[str, Range]:
    """Every dimension's range: as asked, or 1:1:4 rows at the size the model was trained on, and at
    the sizes about it where a head is recommended to see them.

    Raises:
        EngineError: a size that the model cannot take.
    """
    native = manifest.image.native_size
    multiple = manifest.image.size_multiple
    seen = [native]
    if any(settings.get("scales") for settings in manifest.recommended.values()):
        seen += [scaled(native, multiple, scale) for scale in SCALES]
    profile = {BATCH: _DEFAULT_BATCH, SIZE: Range(min(seen), native, max(seen)), **asked}
    size = profile[SIZE]
    if any(pixels % multiple for pixels in (size.min, size.opt, size.max)):
        raise EngineError(
            f"profile {SIZE}={size} does not fit {manifest.model_id}; "
            f"expected multiples of {multiple} pixels"
        )
    return profile


def input_shapes(manifest: Manifest, graph: str, profile: Mapping[str, Range]) -> dict[str, Shapes]:
    """The shapes of a graph's inputs at the three points of a complete profile."""
    batch, size = profile[BATCH], profile[SIZE]
    low, best, high = (
        manifest.inputs(graph, rows, pixels, pixels)
        for rows, pixels in ((batch.min, size.min), (batch.opt, size.opt), (batch.max, size.max))
    )
    return {name: Shapes(low[name], best[name], high[name]) for name in low}


def _parse_range(text: str, numbers: str) -> Range:
    try:
        values = [int(number) for number in numbers.split(":")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise EngineError(f"profile {text!r} cannot be read; expected {_FORM}")
    low, best, high = values * 3 if len(values) == 1 else values
    if not 1 <= low <= best <= high:
        raise EngineError(f"profile {text!r} is out of order; expected 1 ≤ min ≤ opt ≤ max")
    return Range(low, best, high)
