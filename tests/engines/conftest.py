"""A copy of the embedded bundle to put engines into, and a GPU that stands in for one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from standins import cupy as device
from standins import tensorrt

from mdrt.kernels.cuda import module
from mdrt.runtime.bundle import plan
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions import library


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "bundle")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """CuPy's and both engine libraries' stand-ins, as if installed; gives CuPy's."""
    monkeypatch.setitem(sys.modules, device.NAME, device.cupy)
    installed = dict.fromkeys(plan.LIBRARIES, tensorrt.VERSION).get
    monkeypatch.setattr(plan, "installed_version", installed)
    monkeypatch.setattr(library, "installed_version", installed)
    for name in plan.LIBRARIES.values():
        monkeypatch.setitem(sys.modules, name, tensorrt.module(name))
    for noted in (device.WAITED, device.LAUNCHED, device.Graph.launched):
        noted.clear()
    tensorrt.RuntimeCache.compiled.clear()
    device.MEMORY.limit = None
    yield device.cupy
    device.MEMORY.limit = None
    module._kernel.cache_clear()  # tests after this one may change a kernel's source
