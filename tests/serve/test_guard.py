"""Who may ask, from where, and how much."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from mdrt.runtime.serve.app import LOOPBACK
from mdrt.runtime.serve.guard import OPEN
from mdrt.runtime.serve.workers import Workers

Serve = Callable[..., tuple[TestClient, Workers]]


@pytest.fixture
def closed(served: Serve) -> TestClient:
    return served(token="s3cret")[0]


@pytest.mark.parametrize("path", ["/v1/model", "/v1/heads", "/metrics"])
def test_without_the_token_nothing_is_told(closed: TestClient, path: str) -> None:
    got = closed.get(path)
    assert got.status_code == 401
    assert got.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("Bearer other", "s3cret", "Basic !", "Bearer"):
        assert closed.get(path, headers={"Authorization": wrong}).status_code == 401
    assert closed.get(path, headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_predictions_need_the_token_too_and_take_it_as_label_studio_sends_it(
    closed: TestClient,
) -> None:
    assert closed.post("/predict", json={}).status_code == 401
    basic = base64.b64encode(b"anyone:s3cret").decode()
    got = closed.post("/predict", json={}, headers={"Authorization": f"Basic {basic}"})
    assert got.status_code == 400


@pytest.mark.parametrize("path", [*OPEN, "/page/main.js"])
def test_the_page_and_health_need_none(closed: TestClient, path: str) -> None:
    assert closed.get(path).status_code == 200


def test_pages_of_other_sites_may_not_call(served: Serve, png: bytes) -> None:
    client, _ = served(origins=["https://friend.example"])
    send = {"files": {"image": png}, "data": {"classes": "sky"}}
    for origin in ("https://elsewhere.example", "null"):
        got = client.post("/v1/segment", headers={"Origin": origin}, **send)
        assert got.status_code == 403
        assert "Access-Control-Allow-Origin" not in got.headers
    got = client.post("/v1/segment", headers={"Origin": "https://friend.example"}, **send)
    assert got.status_code == 200
    assert got.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    assert client.post("/v1/segment", headers={"Origin": "http://testserver"}, **send).is_success


def test_without_cors_there_is_none(client: TestClient) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    got = client.options("/v1/segment", headers=asked)
    assert got.status_code == 403
    assert "Access-Control-Allow-Origin" not in got.headers


def test_a_name_that_was_made_to_point_here_is_none_of_ours(served: Serve) -> None:
    client, _ = served(hosts=LOOPBACK)
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert client.get("/v1/model", headers={"Host": host}).status_code == 200
    for host in ("rebound.example", "127.0.0.1.example", ""):
        assert client.get("/v1/model", headers={"Host": host}).status_code == 421


def test_a_request_that_is_too_large_is_refused_told_or_not(client: TestClient) -> None:
    large = b"x" * ((1 << 20) + 1)
    headers = {"Content-Type": "image/png"}
    told = client.post("/v1/segment?classes=sky", content=large, headers=headers)
    assert told.status_code == 413

    def pieces():  # type: ignore[no-untyped-def]
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    untold = client.post("/v1/segment?classes=sky", content=pieces(), headers=headers)
    assert untold.status_code == 413
    assert "1,048,576" in untold.json()["error"]
    form = client.post("/v1/segment", files={"image": large}, data={"classes": "sky"})
    assert form.status_code == 413


def test_the_page_may_load_from_this_server_alone(client: TestClient) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_what_is_nowhere_is_one_line(client: TestClient) -> None:
    got = client.get("/nowhere")
    assert got.status_code == 404
    assert got.json() == {"error": "Not Found"}
