"""What cannot be built is said in one line before anything is written; no library is needed."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mdrt.cli import main
from mdrt.export.engines import gpu
from mdrt.export.engines.build import build_engines
from mdrt.export.engines.options import EngineOptions
from mdrt.runtime.bundle.contract import MANIFEST
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.errors import EngineError
from mdrt.runtime.sessions import library


def message(*arguments: object) -> str:
    """What `mdrt` says, which must be one line."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "installed_version", lambda _name: None)


@pytest.mark.usefixtures("no_library")
def test_no_library(bundle: Path) -> None:
    text = message("build", bundle)
    assert "neither tensorrt nor tensorrt-rtx is installed" in text
    assert "pip install tensorrt-rtx" in text
    text = message("build", bundle, "--library", "tensorrt")
    assert "tensorrt is not installed; run `pip install tensorrt`" in text


@pytest.mark.usefixtures("no_library")
def test_export_asks_for_the_library_first() -> None:
    pytest.importorskip("torch")
    assert "pip install tensorrt" in message("export", "nowhere", "-o", "bundle", "--trt=tensorrt")


def test_the_first_installed_library_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "installed_version", {"tensorrt-rtx": "1.7"}.get)
    monkeypatch.setattr(library.importlib, "import_module", lambda name: f"module {name}")
    assert library.open_library() == library.Library("tensorrt-rtx", "1.7", "module tensorrt_rtx")
    monkeypatch.setattr(library, "installed_version", {"tensorrt": "11", "tensorrt-rtx": "1"}.get)
    assert library.open_library().name == "tensorrt"
    assert library.open_library("tensorrt-rtx").name == "tensorrt-rtx"


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> None:
        raise ImportError("libnvinfer.so.11: no such file")

    monkeypatch.setattr(library, "installed_version", {"tensorrt": "11.0"}.get)
    monkeypatch.setattr(library.importlib, "import_module", fail)
    with pytest.raises(EngineError, match=r"tensorrt 11\.0 is installed but .* libnvinfer"):
        library.open_library()


def test_two_builds_of_one_bundle(bundle: Path) -> None:
    """The second would mix its engines with the first's sidecars."""
    checked, tensorrt = load_bundle(bundle), library.Library("tensorrt-rtx", "1.7", None)
    first = os.open(bundle / MANIFEST, os.O_RDONLY)
    try:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="another `mdrt build` is at work in"):
            build_engines(checked, tensorrt, EngineOptions())
    finally:
        os.close(first)
    assert not [path for path in bundle.iterdir() if ".plan" in path.name]


def test_options_a_library_lacks() -> None:
    with pytest.raises(EngineError, match="name no compute capability, or"):
        EngineOptions(compute_capabilities=("8.9",)).check("tensorrt")
    with pytest.raises(EngineError, match="give none, or build with library tensorrt"):
        EngineOptions(timing_cache=Path("cache")).check("tensorrt-rtx")
    with pytest.raises(EngineError, match=r"name no compute capability 7\.x"):
        EngineOptions(compute_capabilities=("8.9", "7.5")).check("tensorrt-rtx")
    with pytest.raises(EngineError, match="strip none, or name no compute capability"):
        EngineOptions(strip_weights=True, compute_capabilities=("8.9",)).check("tensorrt-rtx")
    EngineOptions(compute_capabilities=("8.9",)).check("tensorrt-rtx")
    EngineOptions(timing_cache=Path("cache")).check("tensorrt")


def test_a_profile_that_cannot_be_read(bundle: Path) -> None:
    assert "expected one of batch, size" in message("build", bundle, "--profile", "height=64")


def test_export_takes_profiles_with_engines_only() -> None:
    result = CliRunner().invoke(main, ["export", "model", "-o", "b", "--profile", "batch=1"])
    assert result.exit_code == 2
    assert "--profile goes with --trt" in result.stderr


class Driver:
    """NVIDIA's driver, as far as it is asked."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDeviceGet(self, _device: Any, _index: int) -> int:
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _device: Any) -> int:
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0


def test_the_gpu_is_asked_for_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend = SimpleNamespace(CDLL=lambda _name: Driver(0), byref=ctypes.byref, c_int=ctypes.c_int)
    monkeypatch.setattr(gpu, "ctypes", pretend)
    assert gpu.compute_capability() == "8.9"
    pretend.CDLL = lambda _name: Driver(100)
    with pytest.raises(EngineError, match=r"the driver answers 100.*library tensorrt-rtx"):
        gpu.compute_capability()


@pytest.mark.parametrize("capability", ["9.0", "10.0"])
def test_tensorrt_rtx_has_no_kernels_for_data_centre_gpus(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    """Said before anything is built, whether the GPU was named or is the one of this machine."""
    pretended = library.Library("tensorrt-rtx", "1.7", None)
    with pytest.raises(EngineError, match=rf"{capability} \(asked for\).*library tensorrt"):
        EngineOptions(compute_capabilities=("8.9", capability)).check("tensorrt-rtx")
    EngineOptions().check("tensorrt")
    monkeypatch.setattr(gpu, "compute_capability", lambda: capability)
    for options, refused in (
        (EngineOptions(), "no kernels .*the GPU of this machine.*provider cuda"),
        (EngineOptions(compute_capabilities=("8.9",)), "NoneType"),  # gone on to build
    ):
        with pytest.raises((EngineError, AttributeError), match=refused):
            build_engines(load_bundle(bundle), pretended, options)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", "libnowhere.so.1")
    with pytest.raises(EngineError, match="libnowhere"):
        gpu.compute_capability()
