"""The TensorRT session on a stand-in that computes with ONNX Runtime at the addresses it was set,
and fails where a GPU would."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from standins import cupy as device
from standins.tensorrt import RuntimeCache, write_engines

from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import Range
from mdrt.runtime.errors import DeviceMemoryError, EngineError, MdrtError
from mdrt.runtime.sessions.device import Gpu, open_gpu
from mdrt.runtime.sessions.ort import OrtSession
from mdrt.runtime.sessions.tensorrt import MOST_SHAPES, TrtSession

PROFILE = {"batch": Range(1, 1, 3), "size": Range(64, 256, 320)}


@pytest.fixture
def open_vae(bundle: Path, gpu: ModuleType) -> Callable[..., TrtSession]:
    """Builds the stand-in's engines with the options given and loads the VAE's."""

    def opened(cuda_graphs: bool = True, **options: Any) -> TrtSession:
        write_engines(bundle, **{"profile": PROFILE, **options})
        record = load_bundle(bundle / "unet.plan").plans["vae_encoder.onnx"]
        return TrtSession(bundle / "vae_encoder.plan", record, open_gpu(), cuda_graphs)

    return opened


def image(rows: int = 1, height: int = 64, width: int = 128, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).uniform(-1, 1, (rows, 3, height, width))
    return values.astype(np.float32)


def encode(session: TrtSession, pixels: Any) -> Any:
    """One run, its result copied to the host."""
    with session.device.active():
        outputs = session.infer({"image": session.device.upload(pixels)})
        (latent,) = session.device.download(outputs["latent"])()
    assert type(latent) is np.ndarray
    return latent


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_every_run_is_that_of_onnx_runtime(
    open_vae: Callable[..., TrtSession], bundle: Path, library: str
) -> None:
    """Ordinary, captured and launched runs, shapes in turn, inputs that differ."""
    session, oracle = open_vae(library=library), OrtSession(bundle / "vae_encoder.onnx")
    for seed in range(4):
        for shape in [(1, 64, 128), (3, 64, 64), (2, 320, 192)]:
            pixels = image(*shape, seed=seed)
            expected = oracle.infer({"image": pixels})["latent"]
            np.testing.assert_array_equal(encode(session, pixels), expected)
    assert len(device.Graph.launched) == 9  # all but the first run of each shape


def test_what_the_engine_tells_of_its_tensors(
    open_vae: Callable[..., TrtSession], bundle: Path
) -> None:
    session, oracle = open_vae(), OrtSession(bundle / "vae_encoder.onnx")
    assert session.inputs == oracle.inputs
    assert session.outputs == oracle.outputs


def test_buffers_are_allocated_once_per_shape(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae()
    pixels = session.device.upload(image())
    before = len(device.MEMORY.blocks)
    addresses = {session.infer({"image": pixels})["latent"].data.ptr for _ in range(5)}
    assert len(addresses) == 1
    assert len(device.MEMORY.blocks) == before + 3  # image, latent, scratch
    session.infer({"image": session.device.upload(image(1, 128, 128))})
    assert len(device.MEMORY.blocks) == before + 5  # as many rows: the scratch memory is shared


def test_the_shape_used_longest_ago_gives_way(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae()
    sizes = [(h, w) for h in (64, 128, 192, 256, 320) for w in (64, 128)]
    for height, width in sizes:
        encode(session, image(1, height, width))
        encode(session, image(1, *sizes[0]))
    assert len(session._bound) == MOST_SHAPES
    assert ((1, 3, *sizes[0]),) in session._bound
    assert ((1, 3, *sizes[1]),) not in session._bound
    del session
    gc.collect()
    assert not device.MEMORY.blocks


def test_without_cuda_graphs(open_vae: Callable[..., TrtSession]) -> None:
    for options in ({"cuda_graphs": False}, {"weight_streaming": True}, {"uncapturable": True}):
        session = open_vae(**options)
        first, second = encode(session, image()), encode(session, image())
        np.testing.assert_array_equal(first, second)
    assert not device.Graph.launched


def test_a_capture_that_fails_names_the_option(
    open_vae: Callable[..., TrtSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_vae()
    encode(session, image())

    def broken(_stream: Any) -> None:
        raise device.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(device.Stream, "end_capture", broken)
    with pytest.raises(EngineError, match=r"Invalidated.*run it without"):
        session.infer({"image": session.device.upload(image())})
    device._capturing.clear()


def test_compiled_kernels_are_kept_beside_the_engine(
    open_vae: Callable[..., TrtSession], bundle: Path
) -> None:
    options = {"library": "tensorrt-rtx"}
    encode(open_vae(**options), image())
    cache = bundle / "vae_encoder.plan.8.9.cache"
    assert cache.exists()
    assert len(RuntimeCache.compiled) == 1
    encode(open_vae(**options), image())
    assert len(RuntimeCache.compiled) == 1  # read back, not compiled again
    cache.write_bytes(b"of another library")
    encode(open_vae(**options), image())
    assert len(RuntimeCache.compiled) == 2
    assert cache.read_bytes().startswith(b"cache:")
    assert not [path for path in bundle.iterdir() if path.suffix == ".part"]


def test_stripped_weights_come_from_the_graph(open_vae: Callable[..., TrtSession]) -> None:
    full, stripped = open_vae(), open_vae(stripped=True)
    np.testing.assert_array_equal(encode(full, image()), encode(stripped, image()))


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((4, 64, 64), r"image is \(4, 3, 64, 64\), its profile takes \(1, 3, 64, 64\) to \(3, 3"),
        ((1, 384, 64), r"image is \(1, 3, 384, 64\)"),
    ],
)
def test_a_shape_outside_the_profile(
    open_vae: Callable[..., TrtSession], shape: tuple[int, int, int], part: str
) -> None:
    session = open_vae()
    with pytest.raises(MdrtError, match=f"{part}.*mdrt build .* --profile batch=") as caught:
        encode(session, image(*shape))
    assert "\n" not in str(caught.value)
    assert encode(session, image()).shape == (1, 8, 4, 8)  # the session is as good as before


def test_feeds_are_checked(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae()
    with pytest.raises(MdrtError, match="image is float64"):
        session.infer({"image": session.device.upload(image().astype(np.float64))})
    with pytest.raises(MdrtError, match="image was not given"):
        session.infer({})


def test_an_engine_for_another_gpu(open_vae: Callable[..., TrtSession]) -> None:
    with pytest.raises(
        EngineError, match=r"for compute capability 8\.6, 12\.0, this GPU has 8\.9; run `mdrt build"
    ):
        open_vae(compute_capabilities=("8.6", "12.0"))
    with pytest.raises(EngineError, match=r"cannot load .* built for another device; run `mdrt"):
        open_vae(compute_capability="9.0")


def test_out_of_device_memory(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae(memory=1)
    with pytest.raises(DeviceMemoryError, match=r"vae_encoder\.plan is out of device memory.*;"):
        encode(session, image(2))
    session = open_vae()
    pixels = session.device.upload(image())
    device.MEMORY.limit = 1000
    with pytest.raises(DeviceMemoryError, match=r"Out of memory allocating.*lower size"):
        session.infer({"image": pixels})


def test_infinity_is_told_at_the_download(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae()
    pixels = image()
    pixels[0, 0, 0, 0] = np.nan
    with pytest.raises(MdrtError, match=r"vae_encoder\.plan output latent holds NaN.*precision"):
        encode(session, pixels)
    assert np.isfinite(encode(session, image())).all()


# What follows is about the stand-in's own power: it must fail where a GPU would.


def bound(session: TrtSession) -> Any:
    encode(session, image())
    (found,) = session._bound.values()
    return found


def broken(session: TrtSession, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        session.infer({"image": session.device.upload(image())})


def test_the_stand_in_refuses_bad_addresses(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae(cuda_graphs=False)
    context = bound(session).context
    good = context.addresses["latent"]
    for address, match in [
        (0, "latent has no address"),
        (good + 4, "misaligned"),
        (image().ctypes.data // 256 * 256, "no memory of the device"),
        (session.device.xp.empty(3, "float32").data.ptr, "no memory of the device"),  # freed
    ]:
        context.addresses["latent"] = address
        broken(session, match)
    small = session.device.xp.empty(3, "float32")
    context.addresses["latent"] = small.data.ptr
    broken(session, "takes 1024 bytes, 12 are allocated")


def test_the_stand_in_refuses_freed_buffers(open_vae: Callable[..., TrtSession]) -> None:
    session = open_vae()
    found = bound(session)
    encode(session, image())
    found.outputs = {"latent": session.device.xp.empty((1, 8, 4, 8), "float32")}
    broken(session, "latent lies in no memory of the device that is allocated")


def test_the_stand_in_refuses_what_cannot_be_captured(
    open_vae: Callable[..., TrtSession],
) -> None:
    gpu = open_vae().device
    assert isinstance(gpu, Gpu)
    array = gpu.upload(image())
    gpu.stream.begin_capture()
    for action in (
        lambda: gpu.upload(image()),
        lambda: gpu.xp.empty(3),
        lambda: array + 1,
        lambda: float(array.sum()),
        gpu.stream.synchronize,
        gpu.stream.begin_capture,
        gpu.mark,
    ):
        with pytest.raises(device.CUDARuntimeError, match="during capture"):
            action()
    gpu.stream.end_capture()


def test_the_stand_in_keeps_host_and_device_apart(gpu: ModuleType) -> None:
    array = gpu.asarray(np.ones((2, 3), np.float32))
    for action in (
        lambda: array + np.ones((2, 3), np.float32),
        lambda: gpu.concatenate([array, np.ones((2, 3), np.float32)]),
        lambda: np.concatenate([array, array]),
        lambda: array.get(out=np.empty((2, 3), np.float32), blocking=False),  # not pinned
        lambda: array.set(np.empty((2, 3), np.float32), device.Stream()),
    ):
        with pytest.raises(TypeError):
            action()
    stream, pinned = device.Stream(), device.Pinned(24)
    array.set(np.frombuffer(pinned, np.float32).reshape(2, 3), stream)
    del pinned
    with pytest.raises(AssertionError, match="given back while the device was reading"):
        stream.synchronize()
    device.WAITED.clear()
    array[...] = 1
    assert not device.WAITED
    assert float(array.sum()) == 6
    assert device.WAITED == ["__float__"]
