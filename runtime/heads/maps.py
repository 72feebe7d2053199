"""Class maps (Eq. 4) as the two modes have them, for the heads that read attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from ... import kernels
from ...kernels import Array, Grid, Mode, Pooling
from ..look.taps import Taps
from ..look.tiles import squash_grid
from ..look.words import EncodedText
from .options import Strides

Words: TypeAlias = Literal["driven", "late"]


class MapOptions(Protocol):
    """The options that class maps depend on."""

    @property
    def mode(self) -> Mode: ...
    @property
    def pooling(self) -> Pooling: ...
    @property
    def timestep(self) -> int: ...
    @property
    def words(self) -> Words: ...
    @property
    def attention_strides(self) -> Strides: ...


@dataclass(frozen=True)
class ClassMaps:
    """Class maps, and the logits they were pooled from.

    Attributes:
        maps: a_c, a grid of (classes, rows, columns) float32, in [0, 1].
        logits: (heads, tokens, rows, columns) a layer; probabilities with pooling "softmax".
        grid: the common grid they were brought to, None for the largest layer's.
    """

    maps: Grid
    logits: list[Array]
    grid: tuple[int, int] | None

    def won_shares(self, text: EncodedText) -> Array:
        """(classes,) share of the attention's cells that each class wins."""
        prompts = text.prompts
        return kernels.won_shares(self.logits, prompts.owner, len(prompts.classes), self.grid)


def view(taps: Taps, options: MapOptions) -> dict[str, Any]:
    """What of a look class maps are made from: arguments of `Taps.logits`.

    In mode "released" attention is of the picture as one square, without noise: the official
    code's inversion is a single step, which returns the latent as it is.
    """
    released = options.mode == "released"
    return {
        "canvas": taps.square if released else taps.canvas,
        "timestep": options.timestep,
        "strides": options.attention_strides,
        "probabilities": options.pooling == "softmax",
        "noise": not released,
        "late": options.words == "late",
    }


def class_maps(
    taps: Taps, options: MapOptions, text: EncodedText, logits: list[Array]
) -> ClassMaps:
    """a_c of every name, from the logits that `view` asks for."""
    released = options.mode == "released"
    canvas = taps.square if released else taps.canvas
    with taps.stage("attention"):
        grid = squash_grid(taps.network.manifest.image.native_size) if released else None
        owner, count = text.prompts.owner, len(text.prompts.classes)
        pooled = kernels.class_maps(logits, owner, count, options.pooling, grid)
    return ClassMaps(Grid(pooled, canvas.extent), logits, grid)


def membership(taps: Taps, text: EncodedText) -> Array:
    """(classes, tokens) float32 on the network's device, rows that sum to 1: the mean over a
    class's tokens."""
    own = kernels.membership(text.prompts.owner, len(text.prompts.classes))
    return taps.network.device.upload(own / own.sum(axis=1, keepdims=True))


MODE_HELP: Any = (
    "the paper's equations as written, or as the released code does it: features of the empty "
    "prompt, attention of the picture as one square without noise"
)
WORDS_HELP: Any = (
    "driven: the names drive the network's pass, as in the paper; late: the empty prompt does, and "
    "names are multiplied in afterwards, so that more of them or others cost no pass"
)
POOLING_HELP: Any = (
    "how attention logits become class maps: their exp (the official code's), softmax over the "
    "tokens, or the logit itself (Eq. 4)"
)
