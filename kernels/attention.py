"""Class maps a_c from the cross-attention logits QKᵀ/√d (Eq. 4).

Eq. 4 is the logits themselves; their exponential is the official code's, and so is the order: of
each head at its own grid, and only then resized. Pooling over heads and tokens is linear after it,
so it comes before the resize here, and what is resized is one small map a class and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import cuda
from .grid import Array, Grid, Size, array_module, on_gpu
from .resize import resize

Pooling: TypeAlias = Literal["exp", "softmax", "logit"]


def logits(queries: Array, keys: Array) -> Array:
    """Logits of any words at any later time: QKᵀ/√d, (heads, pixels, tokens).

    A word enters a cross-attention by its keys alone; queries depend on the picture and on the
    prompt that drove the pass (Marcos-Manchón et al., arXiv 2403.14291, keep them likewise).

    Args:
        queries: over √d already, (heads, pixels, d) float32.
        keys: (heads, tokens, d) float32.
    """
    return queries @ keys.transpose(0, 2, 1)


def token_softmax(logits: Sequence[Array], shared: Array) -> list[Array]:
    """Attention probabilities of a class list's prompts, as of one prompt that holds them all.

    A softmax over each prompt by itself would compare its classes with one another alone, and in
    a short prompt each would take more. Here all are divided by the same, at a pixel of a head:

        p_{s,t} = exp z_{s,t} / (Σ_s Σ_{t own} exp z_{s,t} + 1/S Σ_s Σ_{t shared} exp z_{s,t})

    with s one of S prompts. A prompt's own tokens (names and what joins them) add up; what every
    prompt has anew (begin, end, padding) counts once, as the mean over the prompts. Logits of
    different prompts are on one scale: they are products with the same queries. One prompt's
    probabilities are those of a softmax over its tokens.

    Args:
        logits: (heads, pixels, tokens) a prompt.
        shared: (prompts, tokens) bool, where begin, end and padding are.

    Returns:
        (heads, pixels, tokens) float32 a prompt.
    """
    xp = array_module(shared)
    counts = xp.where(shared, 1 / len(logits), 1.0).astype("float32")
    masses = [prompt.astype("float32") for prompt in logits]
    largest = reduce(xp.maximum, [mass.max(axis=-1, keepdims=True) for mass in masses])
    total = 0.0
    for mass, count in zip(masses, counts, strict=True):
        mass -= largest
        xp.exp(mass, out=mass)
        total = total + (mass * count).sum(axis=-1, keepdims=True)
    for mass in masses:
        mass /= total
    return masses


def class_maps(
    logits: Sequence[Array],
    token_class: NDArray[np.integer],
    classes: int,
    pooling: Pooling = "exp",
    grid: Size | None = None,
) -> Array:
    """One map per class on a common grid: (classes, gh, gw) float32 in [0, 1].

    `logits` holds one array (heads, tokens, h, w) a layer; layers may differ in heads and grid.
    Each is pooled over heads and over the tokens of its class, which `token_class` (tokens,),
    always of NumPy, names by integers in [0, classes), and resized bilinearly to `grid`; None
    takes the most rows and columns that a layer has. Heads weigh alike, whatever their layer.

    - "exp": mean of exp(logit), divided by its maximum. Each class is shifted by its own largest
      logit; the factor cancels in the division, and nothing overflows.
    - "softmax": the inputs are probabilities (`token_softmax` over the whole token axis of every
      prompt, before tokens were selected); their mean, divided by its maximum. A map of zeros
      stays so.
    - "logit": mean of the raw logits, stretched from [min, max] to [0, 1]; a constant map is 1.

    A grid of less than half a layer's rows or columns passes over some of its cells.
    """
    _check_layers(logits, len(token_class))
    if pooling == "exp" and on_gpu(logits[0]):
        return cuda.pooled_attention(logits, token_class, classes, grid or _largest(logits))
    maps, _ = class_totals(logits, token_class, classes, pooling, grid)
    return _stretched(maps) if pooling == "logit" else _relative(maps)


def class_totals(
    logits: Sequence[Array],
    token_class: NDArray[np.integer],
    classes: int,
    pooling: Pooling = "exp",
    grid: Size | None = None,
) -> tuple[Array, Array]:
    """`class_maps` before each is divided by its maximum or stretched: what maps of parts of one
    picture are compared by.

    Returns:
        Maps (classes, gh, gw) float32, and (classes,) float32 the logarithm of what each is to be
        multiplied by: 0 but for pooling "exp", which would overflow.
    """
    members = membership(token_class, classes)
    _check_layers(logits, members.shape[1])
    xp, grid = array_module(logits[0]), grid or _largest(logits)
    members = xp.asarray(members)
    if pooling == "exp":
        return _exp_total(logits, members, grid)
    if pooling in ("softmax", "logit"):
        return _linear_mean(logits, members, grid), xp.zeros(classes, dtype="float32")
    raise ValueError(f"pooling {pooling!r} is not one of exp, softmax, logit")


def won_shares(
    probabilities: Sequence[Array],
    token_class: NDArray[np.integer],
    classes: int,
    grid: Size | None = None,
) -> Array:
    """The share of the common grid's cells that each class wins, (classes,) float32.

    A cell goes to the class with the highest mean probability; maps are compared before they are
    divided by their maxima, so that a class that is nowhere wins next to nothing. `probabilities`
    and the rest are as for `class_maps` with pooling "softmax"; the shares add up to 1.
    """
    _check_layers(probabilities, len(token_class))
    members = array_module(probabilities[0]).asarray(membership(token_class, classes))
    xp, grid = array_module(members), grid or _largest(probabilities)
    winners = _linear_mean(probabilities, members, grid).argmax(axis=0).ravel()
    won = winners[None, :] == xp.arange(classes)[:, None]
    return won.astype("float32").mean(axis=1)  # type: ignore[no-any-return]


def absent(won: Array, presence: float) -> Array:
    """(classes,) bool: which classes win a smaller share than `presence`; none if all would."""
    out = won < presence
    return out & ~out.all()


def _check_layers(layers: Sequence[Array], tokens: int) -> None:
    """Raise unless there are layers, each (heads, tokens, h, w) with at least one head and cell."""
    if not layers:
        raise ValueError("logits of no layer were given, expected at least one")
    for layer in layers:
        if layer.ndim != 4 or 0 in layer.shape or layer.shape[1] != tokens:
            raise ValueError(
                f"logits are {layer.shape}, expected (heads, {tokens} tokens, h, w) and none empty"
            )


def membership(token_class: NDArray[np.integer], classes: int) -> Array:
    """(classes, tokens) float32, 1 where the token belongs to the class; none may be empty."""
    outside = [int(c) for c in token_class if not 0 <= int(c) < classes]
    if outside:
        raise ValueError(f"token_class holds {outside[0]}, expected integers in [0, {classes})")
    membership: Array = token_class[None, :] == np.arange(classes)[:, None]
    membership = membership.astype("float32")
    missing = np.flatnonzero(membership.sum(axis=1) == 0)
    if len(missing):
        raise ValueError(f"class {int(missing[0])} has no token")
    return membership


def _largest(layers: Sequence[Array]) -> Size:
    """The most rows and the most columns of a layer's grid."""
    return max(layer.shape[2] for layer in layers), max(layer.shape[3] for layer in layers)


def _exp_total(logits: Sequence[Array], membership: Array, grid: Size) -> tuple[Array, Array]:
    """Σ exp(logit − largest of the class) over heads and tokens, resized, over layers:
    (classes, gh, gw); and that largest logit, (classes,)."""
    xp = array_module(membership)
    own = membership.argmax(axis=0)
    largest = xp.empty((len(logits), len(membership)), dtype="float32")
    sums = []
    for layer, most in zip(logits, largest, strict=True):
        values = layer.astype("float32").reshape(*layer.shape[:2], -1)
        token_largest = values.max(axis=(0, 2))
        most[:] = xp.where(membership > 0, token_largest[None, :], -xp.inf).max(axis=1)
        values -= most[own][None, :, None]
        xp.exp(values, out=values)
        sums.append((membership @ values.sum(axis=0)).reshape(-1, *layer.shape[2:]))
    total = xp.zeros((len(membership), *grid), dtype="float32")
    highest = largest.max(axis=0)
    for layer_sums, factor in zip(sums, xp.exp(largest - highest), strict=True):
        total += _at(layer_sums * factor[:, None, None], grid)
    return total, highest


def _linear_mean(logits: Sequence[Array], membership: Array, grid: Size) -> Array:
    """Mean over layers, heads and the class's tokens, pooled before the (linear) resize."""
    xp = array_module(membership)
    heads = sum(layer.shape[0] for layer in logits)
    mean = membership / (membership.sum(axis=1, keepdims=True) * heads)
    total = xp.zeros((len(membership), *grid), dtype="float32")
    for layer in logits:
        pooled = mean @ layer.sum(axis=0, dtype="float32").reshape(layer.shape[1], -1)
        total += _at(pooled.reshape(-1, *layer.shape[2:]), grid)
    return total  # type: ignore[no-any-return]


def _at(maps: Array, grid: Size) -> Array:
    """Maps (classes, h, w) on the common grid; most layers are there already."""
    return maps if maps.shape[1:] == grid else resize(Grid(maps), grid)


def _relative(maps: Array) -> Array:
    """Each map divided by its maximum."""
    xp = array_module(maps)
    largest = maps.max(axis=(1, 2), keepdims=True)
    return maps / xp.where(largest > 0, largest, 1)  # type: ignore[no-any-return]


def _stretched(maps: Array) -> Array:
    """Each map brought from [min, max] to [0, 1]; a constant one to 1."""
    xp = array_module(maps)
    low = maps.min(axis=(1, 2), keepdims=True)
    spread = maps.max(axis=(1, 2), keepdims=True) - low
    stretched = (maps - low) / xp.where(spread > 0, spread, 1)
    return xp.where(spread > 0, stretched, 1).astype("float32")  # type: ignore[no-any-return]
