"""The embedded model as a pipeline: put together from its bundle and what that leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

import onnx
from safetensors.numpy import load_file, save_file

from mdrt.benchmarks.lab.__main__ import main
from mdrt.benchmarks.lab.scenes.storybook import PARTS, REST, SOURCE, keep, write_pipeline
from mdrt.runtime.errors import BundleError, ExportError
from mdrt.runtime.segmenter import EMBEDDED


def files(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_kept_is_the_pipeline(storybook: Path, tmp_path: Path) -> None:
    for part, (file, _) in PARTS.items():
        weights = load_file(storybook / part / file)
        assert {values.dtype for values in weights.values()} == {np.dtype(np.float16)}
    keep(storybook, EMBEDDED, tmp_path / "kept")
    assert files(tmp_path / "kept") == files(SOURCE)
    assert (SOURCE / REST).stat().st_size < 1e6  # of 11.5 MB


def test_any_other_weights_are_kept_too(storybook: Path, tmp_path: Path) -> None:
    """A square matrix whose transpose alone the bundle has, and one that it has not at all."""
    pipeline, file = tmp_path / "pipeline", f"unet/{PARTS['unet'][0]}"
    shutil.copytree(storybook, pipeline)
    weights = load_file(pipeline / file)
    square = [name for name, v in weights.items() if v.ndim == 2 and v.shape[0] == v.shape[1]]
    weights[square[0]] = np.ascontiguousarray(weights[square[0]].T)
    weights[square[1]] = weights[square[1]] + np.float16(1)
    save_file(weights, pipeline / file, {"format": "pt"})
    keep(pipeline, EMBEDDED, tmp_path / "kept")
    write_pipeline(tmp_path / "again", EMBEDDED, tmp_path / "kept")
    assert square[1] in " ".join(load_file(tmp_path / "kept" / REST))
    found = load_file(tmp_path / "again" / file)
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_another_export_is_refused(tmp_path: Path) -> None:
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    model = onnx.load(bundle / "unet.onnx")
    model.graph.initializer[0].name = "another"
    onnx.save(model, bundle / "unet.onnx")
    with pytest.raises(BundleError, match="another export"):
        write_pipeline(tmp_path / "pipeline", bundle)
    assert not (tmp_path / "pipeline").exists()


def test_the_command_writes_it(storybook: Path, tmp_path: Path) -> None:
    out = tmp_path / "pipeline"
    done = CliRunner().invoke(main, ["storybook", str(out)])
    assert done.exit_code == 0, done.output
    assert files(out) == files(storybook)
    again = CliRunner().invoke(main, ["storybook", str(out)])
    assert again.exit_code == 1
    assert "exists" in again.stderr
    with pytest.raises(ExportError):
        write_pipeline(out, EMBEDDED)
