"""What other runtimes convert is kept, and never taken for another graph's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mdrt.benchmarks.speed.runtimes import mnn_file

onnx = pytest.importorskip("onnx")

CONVERTER = """
from pathlib import Path
def mnnconvert(arguments):
    flags = ("--modelFile", "--MNNModel")
    source, target = (Path(arguments[arguments.index(flag) + 1]) for flag in flags)
    if source.stem == "fail":
        target.write_bytes(b"half")
        return False
    data = source.with_name(source.name + ".data").read_bytes()
    target.write_bytes(b"graph")
    target.with_name(target.name + ".weight").write_bytes(data)
    with open(source.parent / "log", "a") as log:
        log.write("converted ")
    return True
"""
"""Stands in for MNN's: what it is given, beside a log of its calls."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "_tools.py").write_text(CONVERTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def graph(path: Path, value: float, length: int = 64) -> Path:
    """A graph whose weights lie in a file beside it; of the same length for every value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = onnx.numpy_helper.from_array(np.full(length, value, np.float32), "w")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [length])
        for name in ("x", "y")
    ]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    )
    data = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def weights(converted: Path) -> float:
    data = converted.with_name(f"{converted.name}.weight").read_bytes()
    return float(np.frombuffer(data, np.float32)[0])


def test_a_fine_tune_in_a_folder_of_the_same_name_is_converted_anew(folder: Path) -> None:
    """Graph and weights have the same size: only their content differs."""
    first = graph(folder / "a" / "sd15" / "unet.onnx", 1.0)
    second = graph(folder / "b" / "sd15" / "unet.onnx", 2.0)
    assert first.read_bytes() == second.read_bytes()
    cache = folder / "bench"
    assert weights(mnn_file(first, cache)) == 1
    assert weights(mnn_file(second, cache)) == 2
    assert mnn_file(first, cache) == mnn_file(first, cache)
    assert (first.parent / "log").read_text() == "converted "


def test_the_same_graph_elsewhere_is_not_converted_again(folder: Path) -> None:
    first = graph(folder / "a" / "unet.onnx", 1.0)
    shutil.copytree(first.parent, folder / "copy")
    cache = folder / "bench"
    assert mnn_file(first, cache) == mnn_file(folder / "copy" / "unet.onnx", cache)
    assert not (folder / "copy" / "log").exists()


def test_a_conversion_that_failed_leaves_nothing(folder: Path) -> None:
    path = graph(folder / "a" / "fail.onnx", 1.0)
    cache = folder / "bench"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"MNN cannot convert .*fail\.onnx"):
            mnn_file(path, cache)
    assert not list(cache.iterdir())
