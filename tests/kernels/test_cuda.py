"""The CUDA kernels, through the public functions, beside the same functions on NumPy's arrays.

Every test runs twice: on the stand-in, where the very source is compiled for the CPU, and with
CuPy where there is a GPU.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from standins import cupy as standin

from mdrt import kernels
from mdrt.kernels import (
    Grid,
    Guide,
    assign,
    assign_along_edges,
    class_maps,
    cluster,
    full_scores,
    multicut,
    ncut,
    pamr,
    pixel_norms,
    prototypes,
    score_maps,
    scores_along_edges,
)
from mdrt.kernels.affinity import Affinity
from mdrt.kernels.cuda import module
from mdrt.kernels.edges import CHUNK
from mdrt.kernels.spectral import spectral_embedding

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run CUDA on a CPU")
few = settings(
    deadline=None, derandomize=True, max_examples=8 if standin.SANITIZE in os.environ else 25
)

SIZES = st.tuples(st.integers(1, 37), st.integers(1, 37))
SHARES = st.one_of(st.just(1.0), st.floats(0.2, 1.0))
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("standin", marks=COMPILER),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
)
def xp(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """CuPy, or what stands in for it."""
    if request.param == "standin":
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, standin.NAME, standin.cupy)
            yield standin.cupy
        return
    cupy = pytest.importorskip(
        "cupy", reason="CuPy is not installed; `make gpu-test` does that where there is a GPU"
    )
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    yield cupy


def device(xp: ModuleType, grids: list[Grid]) -> list[Grid]:
    return [Grid(xp.asarray(grid.values), grid.extent) for grid in grids]


@st.composite
def levels(draw: st.DrawFn, channels: st.SearchStrategy[int], most: int = 4) -> list[Grid]:
    """One to four levels of odd shapes and extents."""
    random = np.random.default_rng(draw(SEEDS))
    count = draw(channels)
    grids = []
    for _ in range(draw(st.integers(1, most))):
        shape = count, draw(st.integers(1, 9)), draw(st.integers(1, 11))
        values = random.standard_normal(shape).astype(np.float32)
        grids.append(Grid(values, (draw(SHARES), draw(SHARES))))
    return grids


@dataclass(frozen=True)
class Attention:
    """The arguments of class_maps."""

    logits: list[NDArray[Any]]
    token_class: NDArray[np.int64]
    classes: int
    grid: tuple[int, int] | None = None

    @property
    def tolerance(self) -> float:
        """Logits of magnitude m are known to m · 2⁻²⁴, and exp passes that on as it is."""
        return max(1e-5, max(float(np.abs(layer).max()) for layer in self.logits) * 2**-21)


@st.composite
def attention(draw: st.DrawFn, scales: tuple[float, ...] = (0.1, 3.0, 40.0)) -> Attention:
    """Layers of different heads and grids, tokens shuffled, float16 or float32."""
    random = np.random.default_rng(draw(SEEDS))
    classes = draw(st.integers(1, 6))
    token_class = np.append(
        np.arange(classes), random.integers(0, classes, draw(st.integers(0, 8)))
    )
    random.shuffle(token_class)
    sides = st.one_of(st.integers(1, 9), st.just(23))  # 23²: several blocks
    scale, dtype = draw(st.sampled_from(scales)), draw(st.sampled_from(["float16", "float32"]))
    logits = [
        (
            random.uniform(
                -1, 1, (draw(st.integers(1, 4)), len(token_class), draw(sides), draw(sides))
            )
            * scale
        ).astype(dtype)
        for _ in range(draw(st.integers(1, 4)))
    ]
    scale = draw(st.none() | st.floats(0.5, 2.0))  # at half the size, every cell is still read
    if scale is None:
        return Attention(logits, token_class, classes)
    rows, columns = (
        math.ceil(scale * max(layer.shape[axis] for layer in logits)) for axis in (2, 3)
    )
    return Attention(logits, token_class, classes, (rows, columns))


def on_host(case: Attention) -> NDArray[np.float32]:
    return class_maps(case.logits, case.token_class, case.classes, grid=case.grid)


def pooled(xp: ModuleType, case: Attention) -> NDArray[np.float32]:
    logits = [xp.asarray(layer) for layer in case.logits]
    maps = class_maps(logits, case.token_class, case.classes, grid=case.grid)
    assert isinstance(maps, xp.ndarray)
    assert maps.dtype == np.float32
    return xp.asnumpy(maps)


@given(case=attention())
@few
def test_pooled_attention(xp: ModuleType, case: Attention) -> None:
    expected = on_host(case)
    actual = pooled(xp, case)
    assert np.abs(actual - expected).max() < case.tolerance
    np.testing.assert_array_equal(actual.max(axis=(1, 2)), 1)


@given(case=attention(scales=(1e4,)))
@few
def test_pooled_attention_of_huge_logits(xp: ModuleType, case: Attention) -> None:
    """Where exp of anything but the largest is 0: only the order of magnitude is known."""
    expected = on_host(case)
    actual = pooled(xp, case)
    assert np.isfinite(actual).all()
    np.testing.assert_array_equal(actual.max(axis=(1, 2)), 1)
    assert np.abs(actual - expected).max() < case.tolerance


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (8, 1, 16, 16)])
def test_pooled_attention_of_one_class(xp: ModuleType, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    case = Attention([random.normal(0, 9, shape).astype(np.float16)], np.array([0]), 1)
    expected = on_host(case)
    np.testing.assert_allclose(pooled(xp, case), expected, atol=case.tolerance)


def test_every_half_is_read_exactly(xp: ModuleType) -> None:
    header = re.search(r"^struct Half.*?^};$", module.source("pooled_attention"), re.M | re.S)
    assert header
    widen = """extern "C" __global__ void widen(const Half* from, float* to) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        to[i] = from[i];
    }"""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    widened = xp.empty(1 << 16, dtype="float32")
    kernel = xp.RawModule(code=f"{header[0]}\n{widen}").get_function("widen")
    kernel((256,), (256,), (xp.asarray(halves), widened))
    np.testing.assert_array_equal(xp.asnumpy(widened), halves.astype(np.float32))


def test_a_grid_that_meets_no_cell_of_a_map(xp: ModuleType) -> None:
    """Nothing is left of it, and nothing is divided by."""
    layer = np.full((1, 1, 1, 9), -1e4, np.float32)
    layer[..., 4] = 1e4  # the two columns read cells 1, 2, 6 and 7
    case = Attention([layer], np.array([0]), 1, (1, 2))
    np.testing.assert_array_equal(on_host(case), 0)
    np.testing.assert_array_equal(pooled(xp, case), 0)


@given(features=levels(st.integers(1, 70)), size=SIZES)
@few
def test_pixel_norms(xp: ModuleType, features: list[Grid], size: tuple[int, int]) -> None:
    expected = pixel_norms(features, size)
    actual = pixel_norms(device(xp, features), size)
    assert isinstance(actual, xp.ndarray)
    difference = np.abs(xp.asnumpy(actual) - expected)
    assert (difference <= 2e-7 * expected + 1e-7 * expected.max()).all()


def test_pixel_norms_where_neighbours_cancel(xp: ModuleType) -> None:
    values = np.ones((4, 1, 2), np.float32)
    values[:, :, 1] = -1
    actual = xp.asnumpy(pixel_norms(device(xp, [Grid(values)]), (1, 5)))
    np.testing.assert_array_equal(actual, pixel_norms([Grid(values)], (1, 5)))
    assert actual.min() > 0


@given(scores=levels(st.integers(1, 40)), size=SIZES, confident=st.booleans(), seed=SEEDS)
@few
def test_labels(
    xp: ModuleType, scores: list[Grid], size: tuple[int, int], confident: bool, seed: int
) -> None:
    norms = np.random.default_rng(seed).uniform(0.5, 2, size).astype(np.float32)
    expected = assign(scores, size, norms)
    actual = assign(device(xp, scores), size, xp.asarray(norms) if confident else None)
    assert isinstance(actual.labels, xp.ndarray)
    assert actual.labels.dtype == np.uint8
    full = full_scores(scores, size, norms)
    labels = xp.asnumpy(actual.labels)
    chosen = np.take_along_axis(full, labels[None].astype(np.int64), axis=0)[0]
    assert (full.max(axis=0) - chosen).max() < 1e-5  # another label only where scores tie
    if confident:
        np.testing.assert_allclose(xp.asnumpy(actual.confidence), expected.confidence, atol=1e-5)
    else:
        assert actual.confidence is None


def test_the_first_class_wins_a_tie(xp: ModuleType) -> None:
    values = np.random.default_rng(0).standard_normal((1, 5, 3)).repeat(9, axis=0)
    values[:2] -= 1
    scores = device(xp, [Grid(values.astype(np.float32)), Grid(np.ones((9, 2, 2), np.float32))])
    assert (assign(scores, (17, 23)).labels == 2).all()


def test_more_classes_than_a_byte_holds(xp: ModuleType) -> None:
    values = np.zeros((300, 1, 1), np.float32)
    values[299] = 1
    labels = assign(device(xp, [Grid(values)]), (3, 150)).labels
    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_a_picture_is_labelled_in_one_launch(xp: ModuleType) -> None:
    """171 classes at 1024×2048; on the CPU, a strip of it."""
    random = np.random.default_rng(1)
    shapes = [(171, 16, 32), (171, 32, 64), (171, 64, 128)]
    scores = [Grid(random.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    size = (5 if xp is standin.cupy else 1024, 2048)
    before = len(standin.LAUNCHED)
    actual = xp.asnumpy(assign(device(xp, scores), size).labels)
    if xp is standin.cupy:
        assert standin.LAUNCHED[before:] == ["labels_uint8"]
    assert (actual == assign(scores, size).labels).mean() > 0.9999
    assert len(np.unique(actual)) > 100


@given(seed=SEEDS, classes=st.integers(1, 40), grid=SIZES, size=SIZES, chosen=st.booleans())
@few
def test_labels_along_edges(
    xp: ModuleType,
    seed: int,
    classes: int,
    grid: tuple[int, int],
    size: tuple[int, int],
    chosen: bool,
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    small = random.random((3, *grid), dtype=np.float32)
    scores = random.standard_normal((classes, *grid), dtype=np.float32)
    absent = random.random(classes) < 0.5
    absent[random.integers(classes)] = False
    gone = absent if chosen else None
    expected = assign_along_edges(scores, Guide(image, small), gone)
    guide = Guide(xp.asarray(image), xp.asarray(small))
    actual = assign_along_edges(xp.asarray(scores), guide, xp.asarray(absent) if chosen else None)
    assert isinstance(actual.labels, xp.ndarray)
    assert actual.labels.dtype == np.uint8
    full = scores_along_edges(scores, Guide(image, small))
    labels = xp.asnumpy(actual.labels)
    best = np.take_along_axis(full, labels[None].astype(np.int64), axis=0)[0]
    tolerance = 1e-4 * max(1.0, float(np.abs(full).max()))  # the inverse magnifies rounding
    assert (expected.confidence - best).max() < tolerance
    assert not (chosen and absent[np.unique(labels)].any())
    np.testing.assert_allclose(xp.asnumpy(actual.confidence), expected.confidence, atol=tolerance)


def test_many_classes_are_refined_a_chunk_at_a_time(xp: ModuleType) -> None:
    random = np.random.default_rng(6)
    image = random.integers(0, 256, (40, 300, 3), dtype=np.uint8)
    guide = Guide(xp.asarray(image), xp.asarray(random.random((3, 10, 75), dtype=np.float32)))
    scores = np.zeros((300, 10, 75), np.float32)
    scores[299] = 1
    before = len(standin.LAUNCHED)
    labels = assign_along_edges(xp.asarray(scores), guide).labels
    if xp is standin.cupy:
        assert standin.LAUNCHED[before:] == ["edge_labels_uint16"] * -(-300 // CHUNK)
    assert (xp.asnumpy(labels) == 299).all()


@given(seed=SEEDS, classes=st.integers(1, 5), grid=SIZES)
@few
def test_scores_spread_along_colours(
    xp: ModuleType, seed: int, classes: int, grid: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    image = random.random((3, *grid), dtype=np.float32)
    scores = random.standard_normal((classes, *grid), dtype=np.float32)
    waited = len(standin.WAITED)
    actual = pamr(xp.asarray(scores), xp.asarray(image))
    assert len(standin.WAITED) == waited
    assert isinstance(actual, xp.ndarray)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(xp.asnumpy(actual), pamr(scores, image), atol=1e-5)


def test_the_whole_chain(xp: ModuleType) -> None:
    """Logits and features to labels and confidences, in both modes."""
    random = np.random.default_rng(2)
    features = [
        Grid((random.standard_normal(shape) + 0.3).astype(np.float32), (0.9, 1.0))
        for shape in [(96, 8, 8), (64, 16, 16), (32, 32, 32)]
    ]
    logits = [random.normal(0, 3, (8, 5, n, n)).astype(np.float16) for n in (16, 16, 8)]
    token_class, size = np.array([0, 1, 2, 2, 3]), (67, 129)

    def chain(grids: list[Grid], layers: list[Any], mode: Any) -> tuple[Any, Any]:
        norms = pixel_norms(grids, size)
        weights = Grid(class_maps(layers, token_class, 4), (0.9, 1.0))
        found = prototypes(grids, weights, size, mode, norms)
        result = assign(score_maps(grids, found, mode), size, norms)
        return result.labels, result.confidence

    for mode in ("paper", "released"):
        labels, confidence = chain(features, logits, mode)
        on_device = chain(device(xp, features), [xp.asarray(layer) for layer in logits], mode)
        assert (xp.asnumpy(on_device[0]) == labels).mean() > 0.9999
        np.testing.assert_allclose(xp.asnumpy(on_device[1]), confidence, atol=1e-5)


def test_maps_spread_by_self_attention(xp: ModuleType) -> None:
    """Array code alone: every step as on NumPy, without a wait on the way."""
    random = np.random.default_rng(0)
    layer = random.standard_normal((2, 4, 64, 5), dtype=np.float32)
    cross = random.random((3, 6, 4, 4), dtype=np.float32)

    def steps(xp: ModuleType) -> list[Any]:
        own = [(xp.asarray(layer[0]), xp.asarray(layer[1]))]
        maps = kernels.minmax(kernels.head_mean([xp.asarray(cross)]))
        near, maps = kernels.at_side(maps, 8, "nearest"), kernels.at_side(maps, 8)
        smooth = kernels.smooth_by_clusters(kernels.sum_to_one(maps)).reshape(6, -1)
        operator = kernels.mean_map(own)
        spread = kernels.attend(own, near.reshape(6, -1))
        twice = kernels.spread_below(own, maps, 2)
        sharp = kernels.less_entropy(operator, 0.015)
        return [spread, twice, sharp, smooth, kernels.iterate(sharp, smooth, 4)]

    before = len(standin.WAITED)
    found = steps(xp)
    assert len(standin.WAITED) == before
    for ours, wanted in zip(found, steps(np), strict=True):
        assert isinstance(ours, xp.ndarray)
        np.testing.assert_allclose(xp.asnumpy(ours), wanted, rtol=1e-4, atol=1e-5)


def test_heads_and_layers_are_weighed(xp: ModuleType) -> None:
    """GoCA, array code alone: every step as on NumPy, without a wait on the way."""
    random = np.random.default_rng(0)
    queries = random.standard_normal((2, 3, 64, 4), dtype=np.float32)  # of two prompts
    keys = random.standard_normal((2, 3, 7, 4), dtype=np.float32)
    values = random.standard_normal((2, 3, 7, 10), dtype=np.float32)
    coarse = random.standard_normal((2, 2, 16, 5), dtype=np.float32)
    fine = random.standard_normal((2, 2, 64, 5), dtype=np.float32)

    def steps(xp: ModuleType) -> list[Any]:
        shared = xp.asarray(np.arange(7)[None] + np.zeros((2, 1)) == 0)
        taps = [xp.asarray(part) for part in (queries, keys, values)]
        probabilities, brought = kernels.joined(*taps, shared)
        heads = kernels.head_weights(probabilities, brought)
        maps = kernels.layer_map(probabilities, heads).reshape(-1, 8, 8)
        own = [tuple(xp.asarray(part) for part in pair) for pair in (coarse, fine)]
        layers = kernels.layer_weights(taps[0].mean(axis=0), [own[0], None, own[1]])
        scaled = kernels.rescaled(maps * layers[0], xp.asarray(np.eye(14, dtype=np.float32)))
        return [heads, layers, scaled, kernels.spread(own[1:], scaled, 2)]

    before = len(standin.WAITED)
    found = steps(xp)
    assert len(standin.WAITED) == before
    for ours, wanted in zip(found, steps(np), strict=True):
        assert isinstance(ours, xp.ndarray)
        np.testing.assert_allclose(xp.asnumpy(ours), wanted, rtol=1e-3, atol=1e-4)


def test_unnamed_segments(xp: ModuleType) -> None:
    """Array code alone: eigenvectors by their residual, and the same segments as on NumPy."""
    random = np.random.default_rng(3)
    halves = np.repeat(np.eye(2), 6, axis=1)[:, None, :].repeat(12, axis=1)
    values = np.concatenate([halves, np.ones((1, 12, 12))]) + random.normal(0, 0.05, (3, 12, 12))
    features = [Grid(values.astype(np.float32))]
    for size in ((12, 12), (30, 30)):  # solved densely, and by the Krylov method
        affinity = Affinity(device(xp, features), size)
        eigenvalues, vectors = spectral_embedding(affinity, 3)
        residual = affinity.normalised_matvec(vectors.T) - (1 - eigenvalues)[:, None] * vectors.T
        assert float(abs(residual).max()) < 1e-6
        for method in ("spectral", "kmeans"):
            labels, k = cluster(device(xp, features), 2, method, size=size)
            assert k == 2
            expected, _ = cluster(features, 2, method, size=size)
            np.testing.assert_array_equal(xp.asnumpy(labels), expected)
    cuts: list[Callable[[list[Grid], int | Literal["auto"]], tuple[Any, int]]] = [
        partial(cluster, size=None, power=4.0),
        ncut,
        partial(ncut, quirks="published"),
        partial(ncut, method="autosc"),
        multicut,
    ]
    for cut in cuts:
        for segments in ("auto", 2, 5):
            labels, k = cut(device(xp, features), segments)
            expected, count = cut(features, segments)
            assert k == count == (5 if segments == 5 else 2)
            np.testing.assert_array_equal(xp.asnumpy(labels), expected)


def test_arrays_a_kernel_cannot_read_are_named(xp: ModuleType) -> None:
    scores = device(xp, [Grid(np.ones((2, 3, 3), np.float32))])
    with pytest.raises(TypeError, match="norms is float64, expected float32"):
        assign(scores, (4, 5), xp.ones((4, 5), dtype="float64"))
    with pytest.raises(ValueError, match=r"norms is \(5, 4\), expected \(4, 5\)"):
        assign(scores, (4, 5), xp.ones((5, 4), dtype="float32"))
    with pytest.raises(ValueError, match="norms is not contiguous"):
        assign(scores, (4, 5), xp.ones((5, 4), dtype="float32").T)
    with pytest.raises(TypeError, match="scores is float64, expected float32"):
        assign(device(xp, [Grid(np.ones((2, 3, 3)))]), (4, 5))
    with pytest.raises(ValueError, match="scores have 5 levels, expected at most 4"):
        assign(scores * 5, (4, 5))
    with pytest.raises(TypeError, match="logits is float64, expected float32"):
        class_maps([xp.ones((1, 1, 2, 2), dtype="float64")], np.array([0]), 1)


# What follows is about the stand-in's own power: it must fail where a GPU would.


def norms_of_many_pixels() -> NDArray[np.float32]:
    features = [Grid(np.random.default_rng(4).standard_normal((70, 9, 9), dtype=np.float32))]
    return np.asarray(pixel_norms(device(standin.cupy, features), (9, 9)))


def maps_of_many_pixels() -> NDArray[np.float32]:
    random = np.random.default_rng(5)
    shapes = ((2, 2, 23, 23), (2, 2, 7, 5))  # cells of the second are read by other threads
    layers = [random.normal(0, 3, shape).astype(np.float32) for shape in shapes]
    return pooled(standin.cupy, Attention(layers, np.array([0, 1]), 2))


RUNS = {"pixel_norms": norms_of_many_pixels, "pooled_attention": maps_of_many_pixels}
BARRIERS = [
    (name, found.span())
    for name in module.NAMES
    for found in re.finditer(r"__syncthreads\(\);", module.source(name))
]


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the stand-in up to run another source in the place of the product's."""
    monkeypatch.setitem(sys.modules, standin.NAME, standin.cupy)

    def change(text: str) -> None:
        module._kernel.cache_clear()
        monkeypatch.setattr(module, "source", lambda name: text)

    yield change
    module._kernel.cache_clear()


@COMPILER
@pytest.mark.parametrize(("name", "barrier"), BARRIERS)
def test_no_barrier_can_be_left_out(
    changed: Callable[[str], None], name: str, barrier: tuple[int, int]
) -> None:
    expected = RUNS[name]()
    text = module.source(name)
    changed(text[: barrier[0]] + text[barrier[1] :])
    assert not np.allclose(RUNS[name](), expected, rtol=1e-3, atol=0)


@COMPILER
def test_a_barrier_that_not_all_threads_reach_is_refused(changed: Callable[[str], None]) -> None:
    text = module.source("pooled_attention")
    changed(
        text.replace("values[thread] = value;", "values[thread] = value; if (!thread) return 0;")
    )
    with pytest.raises(RuntimeError, match="a barrier not all threads reach"):
        maps_of_many_pixels()


@COMPILER
def test_numbers_of_another_width_are_refused() -> None:
    kernel = standin.RawModule(
        code='extern "C" __global__ void store(int value, int* to) { to[0] = value; }'
    ).get_function("store")
    stored = standin.cupy.zeros(1, dtype="int32")
    kernel((1,), (1,), (np.int32(7), stored))
    assert stored[0] == 7
    for arguments in [(7, stored), (np.int32(7), stored.astype("int64")), (np.int32(7),)]:
        with pytest.raises(RuntimeError, match="arguments do not fit the parameters"):
            kernel((1,), (1,), arguments)


PYTEST = (sys.executable, "-P", "-m", "pytest", "--noconftest", "-s", "-p", "no:cacheprovider")


def sanitized(*selection: str) -> subprocess.CompletedProcess[str]:
    """This file again, its kernels under AddressSanitizer and UBSan, in a process that has them."""
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    missing = [library for library in libraries if not Path(library).is_absolute()]
    if missing:
        pytest.skip(f"g++ has no {missing[0]}")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        standin.SANITIZE: "1",
    }
    return subprocess.run(
        [*PYTEST, __file__, *selection],
        env=environment,
        capture_output=True,
        text=True,
    )


@COMPILER
@pytest.mark.skipif(standin.SANITIZE in os.environ, reason="already under the sanitizers")
def test_under_sanitizers() -> None:
    done = sanitized("-k", "standin and not launch and not segments")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 10


@COMPILER
@pytest.mark.skipif(standin.SANITIZE in os.environ, reason="already under the sanitizers")
def test_the_sanitizers_see_a_missing_bound() -> None:
    done = sanitized("-k", "without_its_bound")
    assert "heap-buffer-overflow" in done.stdout + done.stderr


@COMPILER
@pytest.mark.skipif(standin.SANITIZE not in os.environ, reason="ends the process")
def test_without_its_bound(changed: Callable[[str], None]) -> None:
    text = module.source("labels")
    bound = "if (row >= rows || column >= columns) return;"
    assert bound in text
    changed(text.replace(bound, bound.replace(">=", ">")))
    assign(device(standin.cupy, [Grid(np.ones((2, 3, 3), np.float32))]), (100, 100))


def strided(xp: ModuleType, values: NDArray[Any]) -> Any:
    """The same values where no two neighbours lie side by side."""
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
    wide[..., ::2] = values
    return xp.asarray(wide)[..., ::2]


def test_odd_strides_give_what_plain_arrays_give_or_are_named(xp: ModuleType) -> None:
    random = np.random.default_rng(0)
    size, owner = (21, 34), np.arange(3)
    logits = random.standard_normal((2, 3, 5, 7)).astype(np.float32)
    level = random.standard_normal((6, 4, 5)).astype(np.float32)
    image = xp.asarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
    small = xp.asarray(random.random((3, 4, 5), dtype=np.float32))

    def run(place: Callable[[NDArray[Any]], Any]) -> list[NDArray[Any]]:
        grids = [Grid(place(level))]
        maps = class_maps([place(logits)], owner, 3)
        norms = pixel_norms(grids, size)
        averages = prototypes(grids, Grid(maps), size, "released", norms)
        scores = score_maps(grids, [place(xp.asnumpy(part)) for part in averages], "released")
        found = assign([Grid(place(xp.asnumpy(s.values))) for s in scores], size, norms)
        edges = assign_along_edges(place(xp.asnumpy(maps[:, :4, :5])), Guide(image, small))
        arrays = [maps, found.labels, found.confidence, edges.labels, edges.confidence]
        return [xp.asnumpy(array) for array in arrays]

    for plain, odd in zip(run(xp.asarray), run(partial(strided, xp)), strict=True):
        # sums in another order on a GPU: near 0 a relative bound is none
        np.testing.assert_allclose(odd, plain, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="image is not contiguous"):
        assign_along_edges(small, Guide(strided(xp, xp.asnumpy(image)), small))


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 2, 0, 4), (2, 3, 4, 4), (2, 2, 16)])
def test_empty_heads_and_other_shapes_are_errors_on_every_device(
    xp: ModuleType, shape: tuple[int, ...]
) -> None:
    for arrays in (np, xp):
        layer = arrays.zeros(shape, dtype="float32")
        for pooling in ("exp", "softmax", "logit"):
            with pytest.raises(ValueError, match=r"expected \(heads, 2 tokens, h, w\)"):
                class_maps([layer], np.arange(2), 2, pooling)
        with pytest.raises(ValueError, match="no layer"):
            class_maps([], np.arange(2), 2)
