"""The hub's answers, faked at the transport: each refusal is one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner

from mdrt.cli import main
from mdrt.export.components import open_pipeline
from mdrt.export.hub import is_hub_id
from mdrt.runtime.errors import ExportError

httpx = pytest.importorskip("httpx2", reason="another client of the hub")

Handler = Callable[[Any], Any]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Handler], None]]:
    """Let the hub answer as a handler does; nothing is in its cache."""
    for module in ("huggingface_hub.constants", "diffusers.utils.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)

    def start(handler: Handler) -> None:
        transport = httpx.MockTransport(handler)
        huggingface_hub.set_client_factory(lambda: httpx.Client(transport=transport))

    yield start
    huggingface_hub.set_client_factory(lambda: httpx.Client(follow_redirects=True))


def says(status: int, code: str) -> Handler:
    return lambda request: httpx.Response(
        status, headers={"X-Error-Code": code, "X-Error-Message": "no\nentry"}, request=request
    )


def offline(request: Any) -> Any:
    raise httpx.ConnectError("no route\nto host", request=request)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (says(403, "GatedRepo"), "some/model is gated: accept its terms"),
        (says(401, "GatedRepo"), "some/model is gated: accept its terms"),
        (says(404, "RepoNotFound"), "some/model is not on the hub, or private"),
        (says(401, "RepoNotFound"), "some/model is not on the hub, or private"),
        (says(404, "RevisionNotFound"), "some/model has no such revision; check --revision"),
        (says(500, ""), "could it be fetched from the hub"),
        (offline, r"no route to host.*check the network or give a directory"),
    ],
)
@pytest.mark.parametrize("vae", [False, True])
def test_a_refusal(
    answer: Callable[[Handler], None], sd1: Path, handler: Handler, words: str, vae: bool
) -> None:
    answer(handler)
    arguments = (sd1, "some/model") if vae else ("some/model",)
    with pytest.raises(ExportError, match=words) as caught:
        open_pipeline(*arguments)
    assert "\n" not in str(caught.value)


def test_a_refusal_on_the_command_line(answer: Callable[[Handler], None], tmp_path: Path) -> None:
    answer(says(403, "GatedRepo"))
    words = ["export", "some/model", "--out", str(tmp_path / "bundle"), "--revision", "main"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    line = done.stderr.splitlines()[-1]
    assert "`hf auth login`" in line
    assert not (tmp_path / "bundle").exists()


def test_what_is_asked_of_the_hub(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(model: str, **options: object) -> str:
        asked.update(options, model=model)
        return str(sd1)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    pipeline = open_pipeline("some/model", variant="fp16", revision="v2")
    assert pipeline.model_id == "some/model"
    assert asked["variant"] == "fp16"
    assert asked["revision"] == "v2"
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


@pytest.mark.parametrize("model", ["a/b", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
def test_hub_ids(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(model)
    Path(model).mkdir(parents=True)
    assert not is_hub_id(model)


@pytest.mark.parametrize("model", ["a", "a/b/c", "a/b.safetensors", "a/b.ckpt", Path("a/b")])
def test_no_hub_ids(model: object) -> None:
    assert not is_hub_id(model)


def test_a_revision_of_a_directory(sd1: Path) -> None:
    with pytest.raises(ExportError, match="revision v2 is of a hub id"):
        open_pipeline(sd1, revision="v2")
