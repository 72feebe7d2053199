"""Softmax over the tokens of several prompts: as over those of one that holds them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.kernels import token_softmax, won_shares

from .strategies import SEEDS

LENGTH = 40  # of a prompt


def softmax(logits):
    """Of one prompt by itself, float32 throughout."""
    shifted = logits.astype(np.float32)
    shifted -= shifted.max(axis=-1, keepdims=True)
    exponential = np.exp(shifted)
    return exponential / exponential.sum(axis=-1, keepdims=True)


def framed(own, begin, end):
    """(heads, pixels, LENGTH) logits of a prompt, and where they are begin, end and padding."""
    heads, pixels, count = own.shape
    logits = np.empty((heads, pixels, LENGTH), np.float32)
    logits[..., :1] = begin
    logits[..., 1 : count + 1] = own
    logits[..., count + 1 :] = end
    shared = np.ones(LENGTH, bool)
    shared[1 : count + 1] = False
    return logits, shared


def split(own, cuts, begin, end):
    """The tokens of one list over several prompts: logits a prompt, and (prompts, LENGTH) bool."""
    parts = np.split(own, cuts, axis=2)
    logits, shared = zip(*(framed(part, begin, end) for part in parts), strict=True)
    return list(logits), np.array(shared)


def own_tokens(parts, shared):
    """(heads, pixels, tokens) of all prompts, without what they share."""
    own = [p[:, :, ~s] for p, s in zip(parts, shared, strict=True)]
    return np.concatenate(own, axis=2)


@st.composite
def lists(draw):
    """(own logits, begin, end, cuts) of heads, pixels and one to four prompts of any lengths."""
    random = np.random.default_rng(draw(SEEDS))
    heads, pixels = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, LENGTH - 2), min_size=1, max_size=4))
    scale = draw(st.sampled_from([0.1, 3.0, 40.0]))
    own = random.normal(0, scale, (heads, pixels, sum(lengths))).astype(np.float32)
    begin, end = (random.normal(0, scale, (heads, pixels, 1)).astype(np.float32) for _ in range(2))
    return own, begin, end, np.cumsum(lengths)[:-1]


@given(case=lists())
@settings(max_examples=40)
def test_one_prompt_is_left_as_it_is(case):
    own, begin, end, _ = case
    logits, shared = framed(own[..., : LENGTH - 2], begin, end)
    (actual,) = token_softmax([logits], shared[None])
    np.testing.assert_array_equal(actual, softmax(logits))
    assert actual.dtype == np.float32


@given(case=lists())
@settings(max_examples=40)
def test_own_tokens_and_the_mean_of_shared_ones_make_one(case):
    own, begin, end, cuts = case
    logits, shared = split(own, cuts, begin, end)
    parts = token_softmax(logits, shared)
    total = sum(
        part[:, :, ~s].sum(axis=-1) + part[:, :, s].sum(axis=-1) / len(parts)
        for part, s in zip(parts, shared, strict=True)
    )
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    for part, one in zip(parts, logits, strict=True):  # what divides is the same for all
        ratio = np.log(np.maximum(part, 1e-30)) - one
        seen = part > 1e-25
        spread = np.where(seen, ratio, -np.inf).max(-1) - np.where(seen, ratio, np.inf).min(-1)
        assert spread.max() < 1e-3


@pytest.mark.parametrize("cuts", [[20], [10, 24], [27]])
def test_a_list_over_several_prompts_has_the_winners_of_one(cuts):
    """Identical logits per token: of one head exactly the same, of several nearly."""
    random = np.random.default_rng(7)
    classes, side = 28, 32
    own = random.normal(0, 2, (8, side * side, classes)).astype(np.float32)
    begin, end = (random.normal(4, 1, (8, side * side, 1)).astype(np.float32) for _ in range(2))
    end -= 6
    one, framing = framed(own, begin, end)
    whole = token_softmax([one], framing[None])[0][:, :, 1 : classes + 1]
    logits, shared = split(own, cuts, begin, end)
    joint = own_tokens(token_softmax(logits, shared), shared)
    apart = own_tokens([softmax(part) for part in logits], shared)
    assert (joint.argmax(axis=2) == whole.argmax(axis=2)).all()  # head by head
    expected, ours, theirs = (p.mean(axis=0).argmax(axis=1) for p in (whole, joint, apart))
    assert (ours == expected).mean() > 0.98
    assert (theirs == expected).mean() < 0.95


def test_a_short_prompt_does_not_win_by_being_short():
    """Its one token is nowhere the highest, and nothing but padding stands beside it."""
    random = np.random.default_rng(3)
    side, classes = 16, 21
    own = random.normal(0, 1, (1, side * side, classes)).astype(np.float32)
    own[..., -1] = own[..., :-1].max(axis=-1) - 1
    begin, end = np.float32(-4), np.float32(-6)
    logits, shared = split(own, [classes - 1], begin, end)

    def shares(parts):
        values = own_tokens(parts, shared).transpose(0, 2, 1).reshape(1, classes, side, side)
        return won_shares([values], np.arange(classes), classes)

    assert shares([softmax(part) for part in logits])[-1] > 0.9
    assert shares(token_softmax(logits, shared))[-1] == 0


def test_huge_logits_and_halves():
    own = np.array([[[3e4, -3e4, 2e4]]], np.float32)
    logits, shared = split(own, [2], np.float32(-1e4), np.float32(0))
    with np.errstate(all="raise", under="ignore"):
        parts = token_softmax([part.astype(np.float16) for part in logits], shared)
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(own_tokens(parts, shared), [[[1, 0, 0]]])
