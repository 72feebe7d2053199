"""What NumPy's arrays are given to, beside the same in float64 and beside NumPy's own way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdrt import kernels
from mdrt.kernels import Grid, Guide, cpu, self_attention
from mdrt.kernels.cpu.mean_map import has_spread, mean_rows, spread
from mdrt.kernels.cpu.upsampled import has_upsampled, overlap

pytestmark = pytest.mark.skipif(cpu.operator_library() is None, reason="built without a compiler")

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def some_layers(pixels: int, depths: tuple[int, ...], sharp: float = 1.0, seed: int = 0) -> Layers:
    """Layers of two heads each; logits of about the size `sharp`."""
    random = np.random.default_rng([seed, pixels])
    made = []
    for d in depths:
        queries, keys = random.standard_normal((2, 2, pixels, d), dtype=np.float32)
        made.append((queries * np.float32(sharp / d**0.5), keys))
    return made


def in_full(layers: Layers) -> NDArray[np.float64]:
    """The mean map in float64."""
    total = []
    for queries, keys in layers:
        logits = queries.astype(float) @ keys.astype(float).transpose(0, 2, 1)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        total.append(weights / weights.sum(axis=2, keepdims=True))
    return np.asarray(np.concatenate(total).mean(axis=0))


def mean_map_errors() -> list[float]:
    """The largest of every case; empty where this processor has no such kernel."""
    cases = [(1, (3,), 1.0), (33, (5, 160), 1.0), (100, (40, 64), 6.0), (1025, (40,), 30.0)]
    errors = []
    for pixels, depths, sharp in cases:
        layers = some_layers(pixels, depths, sharp)
        rows = mean_rows(layers)
        if rows is None:
            return []
        for some in (slice(0, pixels), slice(pixels // 3, pixels // 3 + 70)):
            errors.append(float(abs(rows(some) - in_full(layers)[some]).max()))
    return errors


def on_another_processor(simd: str, task: str) -> list[float]:
    """What a task of this file gives where the instruction set is a slower one: a fresh process."""
    code = f"import json, test_compiled; print(json.dumps(test_compiled.{task}()))"
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    known = os.environ | {"MDRT_SIMD": simd, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=known, stdout=-1, check=True, text=True).stdout
    return list(json.loads(done))


def test_mean_maps() -> None:
    assert max(mean_map_errors(), default=0) < 1e-5


def test_mean_maps_of_slower_processors() -> None:
    """Where there is no AVX-512 they are NumPy's."""
    assert on_another_processor("avx2", "mean_map_errors") == []


def test_mean_maps_of_arrays_as_they_lie() -> None:
    """Strided queries and keys, as heads cut from a layer are."""
    ((queries, keys),) = some_layers(65, (12,))
    apart = [np.repeat(array, 2, axis=2)[:, :, ::2] for array in (queries, keys)]
    maps = np.random.default_rng(1).random((4, 65), dtype=np.float32)
    found = kernels.attend([(apart[0], apart[1])], maps)
    np.testing.assert_array_equal(found, kernels.attend([(queries, keys)], maps))


def test_spreading_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = some_layers(400, (40, 40, 8), 3.0)
    maps = np.random.default_rng(2).random((7, 20, 20), dtype=np.float32)
    ways = []
    for replaced, by in ((None, None), ("has_spread", False), ("mean_rows", None)):
        if replaced is not None:
            monkeypatch.setattr(self_attention, replaced, lambda of, by=by: by)
        ways.append([kernels.spread(layers, maps, times) for times in (1, 3)])
    for found in ways[:2]:
        for compiled, wanted in zip(found, ways[2], strict=True):
            np.testing.assert_allclose(compiled, wanted, atol=1e-5)


tiles = pytest.mark.skipif(
    cpu.operator_library() is None or not has_spread(40), reason="needs bfloat16 tiles"
)


@tiles
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(1, 600),
    st.integers(1, 100),
    st.integers(1, 170),
    st.integers(1, 70),
    st.sampled_from([0.0, 1.0, 20.0, 200.0]),
)
def test_what_a_head_takes_of_values(
    seed: int, keys: int, rows: int, depth: int, width: int, sharp: float
) -> None:
    """Within what 17 bits of every number leave of a logit."""
    random = np.random.default_rng(seed)
    q = random.standard_normal((rows, depth), dtype=np.float32) * np.float32(sharp / depth**0.5)
    k = random.standard_normal((keys, depth), dtype=np.float32)
    values = random.random((keys, width), dtype=np.float32)
    logits = q.astype(float) @ k.astype(float).T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    lengths = np.linalg.norm(q, axis=1, keepdims=True), np.linalg.norm(k, axis=1).max()
    allowed = 2.0**-16 * (lengths[0] * lengths[1] + 1)
    found = spread(q, k, values)
    assert (abs(found - weights @ values.astype(float)) <= allowed).all()


@tiles
def test_more_cores_than_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a head are cut among them, though they be fewer."""
    layers, maps = some_layers(37, (5,)), np.random.default_rng(4).random((3, 37), dtype=np.float32)
    wanted = kernels.attend(layers, maps)
    for cores in (3, 24, 100):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        np.testing.assert_array_equal(kernels.attend(layers, maps), wanted)


upsampled = pytest.mark.skipif(
    cpu.operator_library() is None or not has_upsampled(), reason="needs AVX-512"
)


def without_compiled(patch: pytest.MonkeyPatch, module: str) -> None:
    """A kernel as it is where nothing compiled is."""
    patch.setattr(sys.modules[f"mdrt.kernels.{module}"], "has_upsampled", lambda: False)


@upsampled
@pytest.mark.parametrize("classes", [1, 14, 16, 17, 40, 300])
def test_labels_along_edges_are_numpys(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(classes)
    image = random.integers(0, 256, (190, 131, 3)).cumsum(axis=1, dtype=np.uint8)
    small = np.ascontiguousarray(image[::5, ::5].transpose(2, 0, 1) / 255, np.float32)
    scores = random.standard_normal((classes, *small.shape[1:]), dtype=np.float32)
    absent = random.random(classes) < 0.3
    absent[-1] = False
    guide = Guide(image, small)
    found = [kernels.assign_along_edges(scores, guide, out) for out in (None, absent)]
    without_compiled(monkeypatch, "edges")
    for out, ours in zip((None, absent), found, strict=True):
        wanted = kernels.assign_along_edges(scores, guide, out)
        assert ours.labels.dtype == wanted.labels.dtype
        assert (ours.labels == wanted.labels).mean() >= 0.9999
        np.testing.assert_allclose(ours.confidence, wanted.confidence, atol=1e-4)


@upsampled
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_labels_along_edges_are_the_same_band_by_band(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(rows)
    image = random.integers(0, 256, (307, 61, 3)).cumsum(axis=0, dtype=np.uint8)
    small = np.ascontiguousarray(image[::4, ::4].transpose(2, 0, 1) / 255, np.float32)
    scores = random.standard_normal((19, *small.shape[1:]), dtype=np.float32)
    guide = Guide(image, small)
    whole = kernels.assign_along_edges(scores, guide)
    module = sys.modules["mdrt.kernels.cpu.upsampled"]
    monkeypatch.setattr(module, "BAND_CELLS", 1)
    monkeypatch.setattr(module, "BAND_ROWS", rows)
    found = kernels.assign_along_edges(scores, guide)
    assert (found.labels == whole.labels).mean() >= 0.9999
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-5)


@upsampled
@given(st.integers(0, 2**31), st.integers(1, 35), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=20, deadline=None)
def test_overlaps_are_products_in_full(seed: int, classes: int, height: int, width: int) -> None:
    """Of grids of which the picture covers a part, too."""
    random = np.random.default_rng(seed)
    sides = random.integers(1, 9, 4)
    shares = random.uniform(0.3, 1, 4)
    maps = Grid(random.random((classes, *sides[:2]), dtype=np.float32), tuple(shares[:2]))
    level = Grid(np.ones((1, *sides[2:]), np.float32), tuple(shares[2:]))
    norms = random.uniform(0.5, 2, (height, width)).astype(np.float32)
    units = np.eye(level.values.size, dtype=np.float32).reshape(-1, *level.size)
    up = kernels.resize(Grid(units, level.extent), (height, width))
    scaled = kernels.resize(maps, (height, width)) / norms
    wanted = np.einsum("chw,nhw->cn", scaled.astype(float), up.astype(float))
    found = overlap(maps, level, norms)
    np.testing.assert_allclose(found.reshape(classes, -1), wanted, rtol=1e-4, atol=1e-4)


@upsampled
def test_prototypes_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features = [Grid(random.standard_normal((7, n, n + 1), dtype=np.float32)) for n in (4, 9)]
    maps = Grid(random.random((19, 6, 6), dtype=np.float32))
    found = kernels.prototypes(features, maps, (90, 77), "released")
    without_compiled(monkeypatch, "prototypes")
    for ours, wanted in zip(
        found, kernels.prototypes(features, maps, (90, 77), "released"), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-5 * abs(wanted).max())


def upsampled_there() -> list[float]:
    return [float(has_upsampled())]


def test_slower_processors_have_no_compiled_labels() -> None:
    assert on_another_processor("avx2", "upsampled_there") == [0]
