"""Label Studio's protocol, asked as Label Studio asks; its own server is in
test_real_label_studio.py."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest
from starlette.testclient import TestClient

import mdrt
from mdrt.runtime.serve.labelstudio import Source
from mdrt.runtime.serve.workers import Workers

Serve = Callable[..., tuple[TestClient, Workers]]

CONFIG: Final = """<View><Image name="picture" value="$photo"/>
<BrushLabels name="brush" toName="picture" mdrt_head="attention" mdrt_settings='{"refine":"none"}'>
  <Label value="Above" predicted_values="sky, cloud"/><Label value="grass"/>
</BrushLabels></View>"""

JWT: Final = "head.body.signature"


def predict(client: TestClient, value: str, config: str = CONFIG) -> Any:
    task = {"id": 7, "data": {"photo": value}}
    body = {"tasks": [task], "label_config": config, "project": "1.2", "params": {"context": None}}
    return client.post("/predict", json=body)


@pytest.fixture
def studio(png: bytes) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that has the picture of a task, and what it was asked."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, given["refresh"]))
            self.answer(200, json.dumps({"access": "short"}).encode())

        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            if self.path == "/data/upload/1/scene.png":
                self.answer(200, png)
            elif self.path == "/data/away.png":
                self.answer(302, b"", Location="http://127.0.0.1:1/secret")
            elif self.path == "/data/large.png":
                self.answer(200, bytes((1 << 20) + 10))
            else:
                self.answer(404, b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_prediction_has_a_stroke_for_each_label(
    client: TestClient, png: bytes, segmenter: mdrt.Segmenter
) -> None:
    got = predict(client, f"data:image/png;base64,{base64.b64encode(png).decode()}")
    assert got.status_code == 200, got.text
    (prediction,) = got.json()["results"]
    names = [("sky", "cloud"), "grass"]
    expected = segmenter(png, names, head="attention", refine="none", max_size=512)
    assert len(prediction["result"]) == len(expected.found)
    for region in prediction["result"]:
        assert region["from_name"] == "brush"
        assert region["to_name"] == "picture"
        assert region["value"]["brushlabels"][0] in ("Above", "grass")
        assert region["value"]["format"] == "rle"
    assert prediction["score"] == pytest.approx(float(expected.confidence.mean()), abs=1e-4)
    assert prediction["model_version"] == got.json()["model_version"]


@pytest.mark.parametrize(
    ("key", "sent"), [("legacy", "Token legacy"), (JWT, "Bearer short"), ("", "")]
)
def test_pictures_are_fetched_from_the_label_studio_that_was_named(
    served: Serve, studio: tuple[str, list[tuple[str, str]]], key: str, sent: str
) -> None:
    url, asked = studio
    client, _ = served(label_studio=Source(url, key))
    for value in ("/data/upload/1/scene.png", f"{url}/data/upload/1/scene.png"):
        asked.clear()
        assert predict(client, value).status_code == 200
        assert asked[-1] == ("/data/upload/1/scene.png", sent)
        if key == JWT:
            assert asked[0] == ("/api/token/refresh", JWT)


def test_nothing_else_is_fetched(served: Serve, studio: tuple[str, list[tuple[str, str]]]) -> None:
    url, asked = studio
    client, _ = served(label_studio=Source(url))
    for value, status, said in (
        ("http://127.0.0.1:1/data/a.png", 400, "only those of"),
        ("file:///etc/hostname", 400, "only those of"),
        ("//elsewhere.example/a.png", 400, "only those of"),
        ("s3://bucket/a.png", 400, "only those of"),
        ("/data/away.png", 502, "answered 302"),
        ("/data/gone.png", 502, "answered 404"),
        ("/data/large.png", 413, "more than"),
    ):
        got = predict(client, value)
        assert got.status_code == status, got.text
        assert said in got.json()["error"]
    assert "/secret" not in [path for path, _ in asked]


def test_a_key_is_not_shown() -> None:
    assert "s3cret" not in repr(Source("http://127.0.0.1", "s3cret"))


def test_without_a_label_studio_nothing_is_fetched(client: TestClient) -> None:
    got = predict(client, "/data/upload/1/scene.png")
    assert got.status_code == 400
    assert "mdrt serve --label-studio URL" in got.json()["error"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View>", "no XML"),
        ("<View><Image name='a' value='$b'/></View>", "no BrushLabels"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><View>&a;</View>", "no labelling interface"),
        (CONFIG.replace('toName="picture"', 'toName="sound"'), "no BrushLabels on an Image"),
        (CONFIG.replace("attention", "attenion"), "did you mean attention?"),
    ],
)
def test_an_interface_that_cannot_be_filled_in_is_refused(
    client: TestClient, config: str, said: str
) -> None:
    for got in (
        predict(client, "data:image/png;base64,", config),
        client.post("/setup", json={"project": "1.2", "schema": config}),
    ):
        assert got.status_code in (400, 422)
        assert said in got.json()["error"]


def test_setup_health_and_webhooks(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "UP"
    body = {"project": "1.2", "schema": CONFIG, "hostname": "", "access_token": ""}
    version = client.post("/setup", json=body).json()["model_version"]
    assert version.startswith("storybook ")
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
