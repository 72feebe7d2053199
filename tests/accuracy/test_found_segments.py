"""The measure of the number of segments: its figure by hand, and the command on any network."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mdrt.benchmarks.lab.__main__ import main
from mdrt.benchmarks.lab.found_segments import score

TRUTH = arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 2, 7, 255]))
SEGMENTS = arrays.arrays(np.int64, (4, 5), elements=st.integers(0, 4))


@given(TRUTH.filter(lambda truth: (truth != 255).any()), SEGMENTS)
@settings(max_examples=60, deadline=None)
def test_score_is_that_of_a_matching_of_largest_overlap(truth, segments) -> None:
    known = truth != 255
    present = np.unique(truth[known])
    found = []
    for order in permutations(range(5), len(present)):
        pairs = [
            (known & (truth == c), known & (segments == s))
            for c, s in zip(present, order, strict=True)
        ]
        overlap = sum(int((inside & segment).sum()) for inside, segment in pairs)
        each = [(a & b).sum() / (a | b).sum() for a, b in pairs]
        found.append((overlap, 100 * np.mean(each)))
    best = max(overlap for overlap, _ in found)
    figures = [figure for overlap, figure in found if overlap == best]
    assert min(abs(score(truth, segments) - figure) for figure in figures) < 1e-9


def _network(path: Path) -> Path:
    """Tokens of patches of 2×2 pixels: their colours' sums, after one token that is no patch's."""
    weights = np.eye(3, dtype=np.float32)[:, :, None, None].repeat(2, 2).repeat(2, 3)
    constants = {"w": weights, "shape": np.array([1, 3, -1]), "first": np.ones((1, 3, 1), "f4")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Concat", ["first", "r"], ["t"], axis=2),
        helper.make_node("Transpose", ["t"], ["tokens"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, "n", 3])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two pictures: red, green and blue stripes, and red above blue; a third without a truth."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    stripes = np.arange(24)[None].repeat(16, axis=0) // 8
    halves = 2 * (np.arange(16)[:, None].repeat(24, axis=1) // 8)
    for name, truth in {"a": stripes, "b": halves, "c": halves}.items():
        colours = (255 * np.eye(3)[truth]).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "images" / f"{name}.png")
        mask = np.full_like(truth, 255) if name == "c" else truth
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["found", *map(str, arguments)])
    return result.output


def test_the_command_beside_fixed_numbers(tree: Path) -> None:
    network = _network(tree / "net.onnx")
    output = _run(
        "--features", network, "--side", 24, "--patch", 2, "--tree", tree, "--scenes", 1,
        "--power", 4, "--most", 3,
    )  # fmt: skip
    pictures, scenes = output.split("\nscenes, 1 pictures\n")
    assert "2 pictures" in pictures
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in pictures.splitlines()]
    rows = {cells[0]: cells[1:] for cells in found if cells}
    assert rows["found"] == ["100.0", "100.0", "1.00", "0.00", "2.5"]
    assert rows["classes present"][:2] == ["100.0", "100.0"]
    assert float(rows["always 1"][0]) == pytest.approx((100 / 3 / 3 + 25) / 2, abs=0.1)
    for rule in ("found", "before, power 1", "before, power 4", "always 3"):
        assert f"| {rule} |" in scenes


def test_what_cannot_be_measured_is_said(tree: Path) -> None:
    network = _network(tree / "net.onnx")
    assert "needs --features" in _run("--tree", tree)
    assert "unknown data set 'moon'" in _run("--features", network, "--tree", f"moon={tree}")
    assert "check --patch" in _run("--features", network, "--tree", tree, "--patch", 1)
    (tree / "net.onnx").write_bytes(b"no graph")
    assert "cannot load" in _run("--features", network, "--tree", tree)
