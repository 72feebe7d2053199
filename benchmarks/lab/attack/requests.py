"""The server under mutated requests: as a parser whose closed list is of answers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ....runtime.segmenter import Segmenter
from ....runtime.serve.app import create_app
from ....runtime.serve.limits import Limits
from ....runtime.serve.looks import handle
from ....runtime.serve.workers import Workers
from .mutations import TEXTS, Random, of_bytes, of_json
from .parsers import Parser

ALLOWED: Final = frozenset(
    {
        HTTPStatus.OK,
        HTTPStatus.CREATED,
        HTTPStatus.NO_CONTENT,
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.NOT_MODIFIED,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        HTTPStatus.MISDIRECTED_REQUEST,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        499,  # the caller is gone
    }
)
"""What a server may answer to anybody; that it failed is not among it."""

LIMITS: Final = Limits(
    bytes=1 << 18, pixels=100_000, pictures=3, names=12, characters=40, max_size=256, seconds=60
)
_TOKEN: Final = "s3cret"
_GONE: Final = "x-attack-gone"
"""A header of callers who do not wait."""
_HEADERS: Final = (
    "host: elsewhere.example",
    "origin: https://elsewhere.example",
    "origin: http://[",
    "host: [::1",
    "content-type: multipart/form-data",
    "content-type: multipart/form-data; boundary=",
    "content-type: multipart/form-data; boundary=" + "x" * 300,
    "content-type: application/json; charset=utf-7",
    "content-type: text/plain",
    "content-type: image/png",
    "content-length: -1",
    "content-length: \xb2",
    "content-length: 99999999999999999999",
    "authorization: Basic \xff",
    "authorization: Basic OnPDqWNyZXQ=",
    "authorization: Bearer s\xe9cret",
    "authorization: ",
    "transfer-encoding: chunked",
    "range: bytes=5-2",
    "range: bytes=0-0,-1",
    "if-modified-since: never",
    f"{_GONE}: 1",
)


class Unallowed(Exception):
    """An answer that must not be."""


@contextmanager
def requests() -> Iterator[Parser]:
    """A server over the embedded model, as a parser of requests: head, empty line, body."""
    workers = Workers(lambda: Segmenter(threads=1), 1, LIMITS)
    app = create_app(workers, token=_TOKEN)
    try:
        yield Parser("requests", _seeds(), mutate, lambda content: _ask(app, content), ())
    finally:
        workers.close()


def mutate(seed: bytes, random: Random) -> bytes:
    """A request with other bytes, another target, other headers, or another body."""
    head, _, body = seed.partition(b"\n\n")
    lines = head.split(b"\n")
    for _ in range(random.integers(1, 3)):
        kind = random.integers(0, 6)
        if kind == 0:
            lines[0] = of_bytes(lines[0], random)
        elif kind == 1:
            lines.append(_HEADERS[int(random.integers(0, len(_HEADERS)))].encode("latin-1"))
        elif kind == 2 and len(lines) > 1:
            del lines[int(random.integers(1, len(lines)))]
        elif kind == 3 and b"?" in lines[0]:
            text = TEXTS[int(random.integers(0, len(TEXTS)))].encode("utf-8", "surrogatepass")
            lines[0] += b"&settings=" + text
        elif body.startswith(b"{"):
            body = of_json(body, random) if _is_json(body) else of_bytes(body, random)
        else:
            body = of_bytes(body, random)
    return b"\n".join(lines) + b"\n\n" + body


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _ask(app: Any, content: bytes) -> int:
    """The status of the answer.

    Raises:
        Unallowed: it is none of `ALLOWED`, or an error that is not told in one line.
    """
    head, _, body = content.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.decode("latin-1").partition(" ")
    path, _, query = target.partition("?")
    pairs = [line.partition(b":") for line in lines]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    status, data = asyncio.run(_answered(app, scope, body))
    if status not in ALLOWED:
        raise Unallowed(f"status {status}: {data[:200]!r}")
    if status >= HTTPStatus.BAD_REQUEST and b"range" not in dict(headers):
        told = json.loads(data)["error"]
        if "\n" in told or "Traceback" in told:
            raise Unallowed(f"status {status} in several lines: {told[:200]!r}")
    return status


async def _answered(app: Any, scope: Mapping[str, Any], body: bytes) -> tuple[int, bytes]:
    """An answer, whole. The body comes in two pieces; then the caller waits, or is gone."""
    half = len(body) // 2
    messages = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    gone = any(name == _GONE.encode() for name, _ in scope["headers"])
    status, parts = 0, []

    async def receive() -> Mapping[str, Any]:
        if messages:
            return messages.pop(0)
        if not gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, b"".join(parts)


def _seeds() -> list[bytes]:
    """One request of every kind that is answered."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    png = file.getvalue()
    text = base64.b64encode(png).decode()
    look = handle(png, LIMITS.max_size)
    form = b"".join(
        [
            b'--b\r\nContent-Disposition: form-data; name="classes"\r\n\r\nsky, sea\r\n',
            b'--b\r\nContent-Disposition: form-data; name="settings"\r\n\r\n{"presence": 0.01}\r\n',
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
            b"Content-Type: image/png\r\n\r\n" + png + b"\r\n--b--\r\n",
        ]
    )
    multipart = "content-type: multipart/form-data; boundary=b"
    picture, as_json = "content-type: image/png", "content-type: application/json"
    interface = (
        '<View><Image name="i" value="$image"/>'
        '<BrushLabels name="b" toName="i" mdrt_max_size="256">'
        '<Label value="sky"/><Label value="w" predicted_values="sea, water"/></BrushLabels></View>'
    )
    question = {
        "classes": ["sky", ["sea", "water"]],
        "head": "maskdiffusion",
        "settings": {"presence": 0.01, "pooling": "softmax"},
        "background": "sky",
        "max_size": 256,
        "format": "json",
        "view": 64,
    }
    predict = {
        "tasks": [{"id": 1, "data": {"image": f"data:image/png;base64,{text}"}}],
        "label_config": interface,
        "project": "1.2",
        "params": {"context": None},
    }
    asked = [
        ("POST /v1/segment", multipart, form),
        ("POST /v1/segment?format=coco", multipart, form),
        ("POST /v1/segment?classes=sky,sea&format=masks&name=a.png", picture, png),
        ("POST /v1/segment", as_json, question | {"image": text}),
        ("POST /v1/segment", as_json, {"segments": 3, "images": [text, {"data": text}]}),
        ("POST /v1/looks", multipart, form[form.rindex(b"--b\r\n") :]),
        (f"POST /v1/looks/{look}/segment", as_json, {"classes": "sky, tree", "name": "b"}),
        (f"POST /v1/looks/{look}/segment?head=kmeans&segments=2", as_json, {}),
        (f"DELETE /v1/looks/{look}", as_json, b""),
        ("POST /setup", as_json, {"project": "1.2", "schema": interface, "hostname": ""}),
        ("POST /predict", as_json, predict),
        ("POST /webhook", as_json, {"action": "ANNOTATION_CREATED", "project": {"id": 1}}),
        *(
            (f"GET {path}", as_json, b"")
            for path in ("/", "/health", "/ready", "/metrics", "/openapi.json", "/page/main.js")
        ),
        *((f"GET /v1/{path}", as_json, b"") for path in ("heads", "model")),
    ]
    basic = base64.b64encode(f"label-studio:{_TOKEN}".encode()).decode()
    seeds = []
    for first, kind, body in asked:
        knows = f"Basic {basic}" if "predict" in first else f"Bearer {_TOKEN}"
        head = f"{first}\nhost: 127.0.0.1:8000\n{kind}\nauthorization: {knows}\n\n"
        seeds.append(
            head.encode() + (body if isinstance(body, bytes) else json.dumps(body).encode())
        )
    return seeds
