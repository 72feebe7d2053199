"""Batches shrink when memory runs out, and grow again when it has come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mdrt
from mdrt.runtime.look import network as networks
from mdrt.runtime.look.rows import MOST_PATIENCE, PATIENCE, Rows


def run(rows: Rows, batches: int, room: int, wanted: int = 8) -> tuple[list[int], int]:
    """The sizes that went well in so many batches, and how often memory failed: it has `room`."""
    sizes, failures = [], 0
    while len(sizes) < batches:
        size = wanted if rows.limit is None else min(wanted, rows.limit)
        if size > room:
            rows.failed(size)
            failures += 1
        else:
            rows.sufficed(size)
            sizes.append(size)
    return sizes, failures


@pytest.mark.parametrize("most", [None, 8, 6])
def test_memory_that_comes_back_is_used_again(most: int | None) -> None:
    rows = Rows(most)
    assert run(rows, 5, room=1)[0] == [1] * 5
    sizes, failures = run(rows, 20 * PATIENCE, room=100)
    assert failures == 0
    assert sizes == sorted(sizes)
    assert sizes[-1] == (most or 8)


def test_memory_that_stays_short_is_hardly_tried() -> None:
    rows = Rows(None)
    run(rows, 10 * MOST_PATIENCE, room=3)
    sizes, failures = run(rows, 10 * MOST_PATIENCE, room=3)
    assert failures <= 10
    assert min(sizes) == 2


def test_batches_below_the_limit_say_nothing() -> None:
    """Pictures of one tile: no reason to believe that four would fit."""
    rows = Rows(None)
    rows.failed(8)
    for _ in range(100 * PATIENCE):
        rows.sufficed(1)
    assert rows.limit == 4


def test_a_memory_that_was_short_once_is_forgotten() -> None:
    """Its patience is as before the failure once as many rows went well."""
    rows = Rows(8)
    run(rows, 2000, room=1)
    run(rows, 8000, room=8)
    assert run(rows, 1, room=4)[1] == 1
    sizes, _ = run(rows, 2 * PATIENCE + 1, room=8)
    assert sizes[-1] == 8


@pytest.mark.parametrize("graph", ["vae", "unet"])
def test_inputs_for_which_memory_does_not_suffice_are_put_together_in_parts(
    segmenter: mdrt.Segmenter, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (384, 900, 3), dtype=np.uint8)
    monkeypatch.setattr(networks, "PIXELS_AT_ONCE", 4 * 384 * 384)
    expected = segmenter(picture, ["sky", "tree"], mode="paper")
    assert expected.settings["tiles"] == 4
    sizes: list[int] = []

    def stack(arrays: list[NDArray[Any]]) -> NDArray[Any]:
        first = arrays[0]
        of_graph = first.dtype == np.uint8 if graph == "vae" else first.shape == hidden
        if of_graph and len(arrays) > limit:
            raise MemoryError("Unable to allocate")
        if of_graph:
            sizes.append(len(arrays))
        return real(arrays)

    manifest = segmenter.manifest
    hidden = manifest.texts[0].tokens.max_length, manifest.texts[0].hidden
    real, limit = np.stack, 1
    monkeypatch.setattr(np, "stack", stack)
    found = segmenter(picture, ["sky", "tree"], mode="paper")
    assert sizes == [1, 1, 1, 1]
    assert (found.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
    limit = 0
    with pytest.raises(mdrt.DeviceMemoryError, match="fewer classes at once"):
        segmenter(picture, ["sky", "tree"], mode="paper")
    limit = 4
    for _ in range(2 * PATIENCE):
        sizes.clear()
        segmenter(picture[:, :800], ["sky", "tree"], mode="paper")
        if sizes[0] > 1:
            break
    assert sizes[0] > 1  # it has come back, and is used
