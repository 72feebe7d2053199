"""The libraries that pip put beside ONNX Runtime are loaded before a session needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

import mdrt
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions import providers
from mdrt.runtime.sessions.ort import OrtSession
from mdrt.runtime.sessions.providers import PROVIDERS, Provider, preload

GRAPH = EMBEDDED / "text_encoder.onnx"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called of ONNX Runtime, whose preloading misses one library, in order."""
    called = []

    def preload_dlls() -> None:
        called.append("preload")
        print("Failed to load libcudart.so.13: cannot open\nPlease follow https://example.org")

    def session(*arguments: Any, real: Any = ort.InferenceSession, **options: Any) -> Any:
        called.append("session")
        return real(*arguments, **options)

    monkeypatch.setattr(ort, "preload_dlls", preload_dlls)
    monkeypatch.setattr(ort, "InferenceSession", session)
    return called


def test_before_a_session_on_cuda(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = {"cuda": Provider("CPUExecutionProvider", "cuda")}
    monkeypatch.setattr(providers, "PROVIDERS", PROVIDERS | stand_in)
    OrtSession(GRAPH, provider="cuda")
    assert calls == ["preload", "session"]


def test_not_on_the_cpu_nor_for_a_plugin(calls: list[str]) -> None:
    OrtSession(GRAPH)
    assert preload(PROVIDERS["nvtensorrtrtx"]) == preload(PROVIDERS["openvino"]) == ""
    assert calls == ["session"]


def test_what_is_missing_is_the_reason_that_a_provider_does_not_start(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    available = [PROVIDERS["cuda"].name, "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    with pytest.raises(mdrt.ProviderError) as caught:
        OrtSession(GRAPH, provider="cuda")
    assert "Failed to load libcudart.so.13: cannot open, or use provider cpu" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""  # where --json goes


def test_a_provider_that_raises_is_not_tried_again_on_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TensorRT's does without its libraries; ONNX Runtime would print and take CUDA's."""

    def fail(self: Any, *_: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries\nand more")

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", fail)
    available = [PROVIDERS["tensorrt"].name, PROVIDERS["cuda"].name, "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    words = r"cannot start TensorrtExecutionProvider \(Please install TensorRT libraries\); check"
    with pytest.raises(mdrt.ProviderError, match=words):
        OrtSession(GRAPH, provider="tensorrt")
    assert capsys.readouterr().out == ""


def test_tensorrt_loads_its_own(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").touch()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    preload(PROVIDERS["cuda"])
    assert "tensorrt" not in sys.modules
    preload(PROVIDERS["tensorrt"])
    assert sys.modules.pop("tensorrt").__file__ == str(tmp_path / "tensorrt.py")


def test_an_onnx_runtime_before_1_21_has_nothing_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "preload_dlls")
    assert preload(PROVIDERS["cuda"]) == ""
