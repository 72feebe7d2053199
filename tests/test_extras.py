"""What pip makes of each extra: one ONNX Runtime; `make extras-test` asks the package index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from test_package import MAKEFILE, ROOMS, ROOT

RUNTIMES = {"onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"}

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def named(extra: str) -> set[str]:
    """The packages that an extra names, those of mdrt's extras within it included."""
    found = set()
    for line in EXTRAS[extra]:
        if line.startswith("mdrt["):
            found |= named(line[5:-1])
        else:
            found.add(re.split(r"[\[<>=!~ ;]", line)[0])
    return found


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_names_one_onnx_runtime_or_none(extra: str) -> None:
    ours = {"cpu", "cuda", "gpu", "openvino", "rtx"}
    assert len(named(extra) & RUNTIMES) == (extra in ours)


def test_every_environment_of_make_has_the_one_for_the_cpu() -> None:
    installed = re.findall(r"^INSTALLED_\w+ = \.\[(.+)\]$", MAKEFILE.read_text(), re.MULTILINE)
    assert len(installed) == 3
    for extras in installed:
        names = set().union(*map(named, extras.split(",")))
        assert names & RUNTIMES == {"onnxruntime"}


def test_the_extra_of_a_gpu_is_that_of_cuda_and_tensorrt() -> None:
    assert named("gpu") == named("cuda") | {"tensorrt"}


PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
BOUNDS = ("--constraint", str(ROOT / "constraints.txt"))

CHECK = """
import json, sys
from pathlib import Path
import mdrt, onnxruntime
from mdrt.runtime.sessions.onnx_runtime import _owners
from mdrt.runtime.sessions.ort import OrtSession
provider, picture, graph = sys.argv[1:]
try:
    refused = OrtSession(Path(graph), provider) and None
except mdrt.ProviderError as error:
    refused = str(error)
segmenter, oracle = mdrt.Segmenter(provider=provider), mdrt.Segmenter(operators="onnxruntime")
ours, theirs = (s(picture, list(s.manifest.classes)) for s in (segmenter, oracle))
print(json.dumps({
    "owners": _owners(),
    "providers": onnxruntime.get_available_providers(),
    "different": int((ours.labels != theirs.labels).sum()),
    "nodes": ours.settings["nodes"],
    "refused": refused,
    "allowed": OrtSession(Path(graph), provider, allow_cpu_nodes=True).nodes,
}))
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """mdrt's own wheel, without the C++ operator, which takes longest."""
    source = tmp_path_factory.mktemp("source")
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    environment = os.environ | {"CC": "false", "CXX": "false"}
    command = [sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", source / "made", source]
    subprocess.run(command, check=True, env=environment)
    (made,) = (source / "made").iterdir()
    return str(made)


def determinant(path: Path) -> Path:
    """A graph with a node that OpenVINO has no kernel for."""
    nodes = [
        helper.make_node(kind, [reads], [writes], name=kind.lower())
        for kind, reads, writes in (("Relu", "x", "a"), ("Det", "a", "b"), ("Neg", "b", "y"))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [3, 2, 2]), ("y", [3]))
    ]
    graph = helper.make_graph(nodes, "determinant", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.mark.extras
@pytest.mark.parametrize("extra", ["cpu", "openvino"])
def test_an_empty_environment_runs(wheel: str, tmp_path: Path, extra: str) -> None:
    run(sys.executable, "-m", "venv", tmp_path)
    python = next(tmp_path.glob("[bS]*/python*"))
    run(python, *PIP, "install", *BOUNDS, f"{wheel}[{extra}]")
    picture, graph = ROOT / "examples" / "valley.png", determinant(tmp_path / "det.onnx")
    found = json.loads(run(python, "-P", "-c", CHECK, extra, picture, graph))
    assert found["owners"] == ["onnxruntime"]
    assert found["different"] == 0
    assert "CPUExecutionProvider" in found["providers"]
    if extra == "cpu":
        assert found["refused"] is found["nodes"] is None
        return
    name = "OpenVINOExecutionProvider"
    assert name in found["providers"]
    assert len(found["nodes"]) == 3
    assert all(counts.keys() == {name} for counts in found["nodes"].values())
    assert found["refused"].startswith(f"{name} leaves 1 node of det.onnx to the CPU: 1 Det (det);")
    assert found["allowed"] == {name: 2, "CPUExecutionProvider": 1}


@pytest.mark.extras
@pytest.mark.parametrize(
    ("extras", "expected"),
    [
        ("cuda", {"onnxruntime-gpu"}),
        ("rtx", {"onnxruntime"}),
        ("export,bench,dev", set()),
    ],
)
def test_what_is_too_large_to_install_resolves(wheel: str, extras: str, expected: set[str]) -> None:
    """Not `gpu`: TensorRT's own libraries are not on the package index."""
    asked = ("install", "--dry-run", "--ignore-installed", "--report", "-", f"{wheel}[{extras}]")
    report = json.loads(run(sys.executable, *PIP, *asked))
    names = {item["metadata"]["name"].replace("_", "-").lower() for item in report["install"]}
    assert names & RUNTIMES == expected
    if "cuda" in extras:
        assert {"cupy-cuda13x", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cufft"} <= names
