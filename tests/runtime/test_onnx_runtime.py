"""ONNX Runtime is installed by one package, or a line says what to run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import mdrt
from mdrt.runtime.sessions import onnx_runtime as module
from mdrt.runtime.sessions.onnx_runtime import install_command, onnx_runtime

Site = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Makes a folder of installed packages the one that `import onnxruntime` would read."""

    def install(*packages: str, whole: bool = True) -> None:
        (tmp_path / "onnxruntime").mkdir()
        if whole:
            (tmp_path / "onnxruntime" / "__init__.py").touch()
        for name in packages:
            info = tmp_path / f"{name.replace('-', '_')}-1.24.0.dist-info"
            info.mkdir()
            (info / "RECORD").write_text("onnxruntime/LICENSE,,\nonnxruntime/__init__.py,sha,0\n")
        # What writes other folders, or a folder of that name inside its own.
        for name, line in (
            ("onnxruntime_ep_openvino", "onnxruntime_ep_openvino/__init__.py,sha,0\n"),
            ("onnxruntime_extensions", "x/onnxruntime/__init__.py,sha,0\n"),
        ):
            (tmp_path / f"{name}-1.0.dist-info").mkdir()
            (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text(line)

    def find_spec(name: str) -> object:
        return PathFinder.find_spec(name, [str(tmp_path)])

    monkeypatch.setattr(module, "find_spec", find_spec)
    onnx_runtime.cache_clear()
    yield install
    onnx_runtime.cache_clear()


def refusal() -> str:
    """What `mdrt.Segmenter()` says: one line."""
    with pytest.raises(mdrt.ProviderError) as caught:
        mdrt.Segmenter()
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("packages", "extra"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "cuda"),
        (("onnxruntime", "onnxruntime-openvino"), "openvino"),
        (("onnxruntime", "onnxruntime-directml"), "cpu"),
        (("onnxruntime-directml", "onnxruntime-gpu", "ort-nightly"), "cuda"),
    ],
)
def test_two_packages_in_one_folder_are_refused_with_one_command(
    site: Site, packages: tuple[str, ...], extra: str
) -> None:
    site(*packages)
    text = refusal()
    assert text.startswith(" and ".join(packages))
    command = f"`pip uninstall --yes {' '.join(packages)} && pip install '.[{extra}]'`"
    assert command in text


def test_one_package_is_taken_whichever_it_is(site: Site) -> None:
    site("onnxruntime-gpu")
    assert onnx_runtime().__name__ == "onnxruntime"
    assert install_command("gpu") == "`pip install '.[gpu]'` in mdrt's own folder"
    assert install_command("cpu").startswith("`pip uninstall --yes onnxruntime-gpu && pip install")


def test_what_an_uninstall_of_one_of_two_left_behind(site: Site) -> None:
    site("onnxruntime-gpu", whole=False)
    assert "not installed; run `pip uninstall --yes onnxruntime-gpu && pip install" in refusal()


def test_a_package_that_cannot_be_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site("onnxruntime-gpu")

    def fail(name: str) -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(module.importlib, "import_module", fail)
    text = refusal()
    assert "cannot be loaded (libcudart.so.13: cannot open shared object file); run" in text
    assert "pip uninstall --yes onnxruntime-gpu && pip install '.[cuda]'" in text


def test_looking_takes_two_milliseconds_at_most() -> None:
    def once() -> float:
        start = time.perf_counter()
        module._owners()
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 2e-3


def without(code: str) -> subprocess.CompletedProcess[str]:
    """A process in which ONNX Runtime is not installed."""
    head = "import sys; sys.modules['onnxruntime'] = None\n"
    command = [sys.executable, "-P", "-c", head + code]
    return subprocess.run(command, capture_output=True, text=True)


def test_without_it_mdrt_is_imported_and_helps() -> None:
    done = without("import mdrt; from mdrt.cli import main; main(['segment', '--help'])")
    assert done.returncode == 0, done.stderr
    assert "--classes" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["segment", "{picture}", "-o", "{out}"], ["export", "model", "-o", "{out}"]]
)
def test_without_it_one_line_says_what_brings_it(
    picture_file: Path, tmp_path: Path, arguments: list[str]
) -> None:
    filled = [text.format(picture=picture_file, out=tmp_path / "out") for text in arguments]
    done = without(f"from mdrt.cli import main; main({filled!r})")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == (
        "Error: ONNX Runtime is not installed; run `pip install '.[cpu]'` in mdrt's own folder, "
        "with '.[gpu]' for an NVIDIA GPU"
    )
    assert not (tmp_path / "out").exists()
