"""The embedded model's network run by PyTorch, on the host here and on a GPU where one is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdrt
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.runtime.sessions.device import Device, Host, open_gpu

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

from mdrt.benchmarks.lab.device.torch_session import TorchSession


def _gpu() -> Device:
    import torch

    try:
        found = open_gpu()
    except mdrt.ProviderError as error:
        pytest.skip(str(error))
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    return found


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def model(request: pytest.FixtureRequest) -> mdrt.Segmenter:
    device = Host() if request.param == "host" else _gpu()
    return mdrt.Segmenter(open_graph=partial(TorchSession, device=device), device=device)


SCENES = [render(seed).image for seed in (0, 1, 2)]
PICTURES = {
    "scene": SCENES[0],
    "tiles": np.concatenate(SCENES, axis=1),
    "portrait": SCENES[1][:, :150],
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "paper", "pooling": "exp", "attention": 0.0, "refine": "none"},
        {"mode": "released", "pooling": "exp", "attention": 0.0, "refine": "none"},
        {"mode": "paper", "pooling": "softmax", "refine": "guided"},
        {"mode": "paper", "pooling": "softmax", "refine": "pamr"},
        {"mode": "paper", "pooling": "logit", "scores": True},
        {"mode": "paper", "pooling": "exp", "refine": "none", "threshold": 0.6},
        {"words": "late"},
        {"words": "late", "mode": "paper", "pooling": "exp", "refine": "none"},
    ],
    ids=[
        "recommended",
        "paper",
        "released",
        "guided",
        "pamr",
        "logit",
        "threshold",
        "late",
        "late, paper",
    ],
)
def test_named(
    model: mdrt.Segmenter, segmenter: mdrt.Segmenter, options: dict[str, Any], picture: str
) -> None:
    ours, theirs = (
        network(PICTURES[picture], CLASSES, **options) for network in (model, segmenter)
    )
    assert isinstance(ours.labels, np.ndarray)
    assert (ours.labels == theirs.labels).mean() >= 0.999
    np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=2e-3)
    np.testing.assert_allclose(ours.weights.values, theirs.weights.values, atol=2e-3)


@pytest.mark.parametrize("head", ["spectral", "kmeans"])
@pytest.mark.parametrize("segments", [4, "auto"])
def test_unnamed(
    model: mdrt.Segmenter, segmenter: mdrt.Segmenter, segments: Any, head: str
) -> None:
    ours, theirs = (
        network(SCENES[2], segments=segments, head=head) for network in (model, segmenter)
    )
    assert len(ours.classes) == len(theirs.classes)
    assert (ours.labels == theirs.labels).mean() >= 0.98


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "erf.onnx"
    save(helper.make_model(graph), path)
    with pytest.raises(mdrt.BundleError, match=r"erf\.onnx has Erf"):
        TorchSession(path, Host())
