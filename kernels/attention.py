"""Class maps a_c from the cross-attention logits (Eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import cuda
from .grid import Array, Grid, Size, array_module, on_gpu
from .resize import resize

Pooling: TypeAlias = Literal["exp", "softmax", "logit"]


def token_softmax(logits: Array) -> Array:
    """Softmax over the last axis of (…, tokens): attention probabilities, float32."""
    xp = array_module(logits)
    shifted = logits.astype("float32")
    shifted -= shifted.max(axis=-1, keepdims=True)
    xp.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def class_maps(
    logits: Sequence[Array],
    token_class: NDArray[np.integer],
    classes: int,
    pooling: Pooling = "exp",
) -> Array:
    """One map per class on the largest attention grid: (classes, gh, gw) float32 in [0, 1].

    `logits` holds one array (heads, tokens, h, w) a layer; layers may differ in heads and grid.
    Each is resized bilinearly to the largest grid, pooled over layers and heads and over the
    tokens of its class, which `token_class` (tokens,), always of NumPy, names by integers in
    [0, classes).

    - "exp" (Eq. 4): mean of exp(logit), divided by its maximum. Each class is shifted by its own
      largest resized logit; the factor cancels in the division, and nothing overflows.
    - "softmax": the inputs are probabilities (`token_softmax` over the whole token axis, before
      tokens were selected); their mean, divided by its maximum. A map of zeros stays so.
    - "logit": mean of the raw logits, stretched from [min, max] to [0, 1]; a constant map is 1.
    """
    membership = _membership(token_class, classes)
    if any(layer.shape[1] != membership.shape[1] for layer in logits):
        tokens = [layer.shape[1] for layer in logits]
        raise ValueError(f"logits have {tokens} tokens, token_class has {membership.shape[1]}")
    grid = max(layer.shape[2] for layer in logits), max(layer.shape[3] for layer in logits)
    if pooling == "exp" and on_gpu(logits[0]):
        return cuda.pooled_attention(logits, token_class, classes, grid)
    membership = array_module(logits[0]).asarray(membership)
    if pooling == "exp":
        return _relative(_exp_sum(logits, membership, grid))
    if pooling == "softmax":
        return _relative(_linear_mean(logits, membership, grid))
    if pooling == "logit":
        return _stretched(_linear_mean(logits, membership, grid))
    raise ValueError(f"pooling {pooling!r} is not one of exp, softmax, logit")


def won_shares(
    probabilities: Sequence[Array], token_class: NDArray[np.integer], classes: int
) -> Array:
    """The share of the largest attention grid's cells that each class wins, (classes,) float32.

    A cell goes to the class with the highest mean probability; maps are compared before they are
    divided by their maxima, so that a class that is nowhere wins next to nothing. `probabilities`
    and the rest are as for `class_maps` with pooling "softmax"; the shares add up to 1.
    """
    membership = array_module(probabilities[0]).asarray(_membership(token_class, classes))
    grid = max(p.shape[2] for p in probabilities), max(p.shape[3] for p in probabilities)
    xp = array_module(membership)
    winners = _linear_mean(probabilities, membership, grid).argmax(axis=0).ravel()
    won = winners[None, :] == xp.arange(classes)[:, None]
    return won.astype("float32").mean(axis=1)  # type: ignore[no-any-return]


def absent(won: Array, presence: float) -> Array:
    """(classes,) bool: which classes win a smaller share than `presence`; none if all would."""
    out = won < presence
    return out & ~out.all()


def _membership(token_class: NDArray[np.integer], classes: int) -> Array:
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


def _exp_sum(logits: Sequence[Array], membership: Array, grid: Size) -> Array:
    """Σ exp(logit − largest of the class) over layers, heads and tokens, (classes, gh, gw).

    Layers stream by: when one brings a new largest logit of a class, the sum so far is rescaled.
    """
    xp = array_module(membership)
    largest = xp.full(len(membership), -xp.inf, dtype="float32")
    total = xp.zeros((len(membership), grid[0] * grid[1]), dtype="float32")
    own = membership.argmax(axis=0)
    for layer in logits:
        heads, tokens = layer.shape[:2]
        values = layer.astype("float32")
        if layer.shape[2:] != grid:
            values = resize(Grid(values.reshape(-1, *layer.shape[2:])), grid)
        values = values.reshape(heads, tokens, -1)
        token_largest = values.max(axis=(0, 2))
        seen = xp.where(membership > 0, token_largest[None, :], -xp.inf).max(axis=1)
        raised = xp.maximum(largest, seen.astype("float32"))
        values -= raised[own][None, :, None]
        xp.exp(values, out=values)
        total *= xp.exp(largest - raised)[:, None]
        total += membership @ values.sum(axis=0)
        largest = raised
    return total.reshape(-1, *grid)  # type: ignore[no-any-return]


def _linear_mean(logits: Sequence[Array], membership: Array, grid: Size) -> Array:
    """Mean over layers, heads and the class's tokens, pooled before the (linear) resize."""
    xp = array_module(membership)
    heads = sum(layer.shape[0] for layer in logits)
    mean = membership / (membership.sum(axis=1, keepdims=True) * heads)
    total = xp.zeros((len(membership), *grid), dtype="float32")
    for layer in logits:
        pooled = mean @ layer.sum(axis=0, dtype="float32").reshape(layer.shape[1], -1)
        total += resize(Grid(pooled.reshape(-1, *layer.shape[2:])), grid)
    return total  # type: ignore[no-any-return]


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
