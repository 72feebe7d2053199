"""Label Studio's protocol for a machine-learning backend: pre-annotations as brush strokes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener
from urllib.request import Request as Fetch
from xml.etree import ElementTree

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..look.prompts import ClassName
from ..writers.labelstudio import strokes
from . import calls
from .looks import handle
from .metrics import Metrics
from .problems import Problem, bad, too_large
from .questions import Question, question
from .uploads import Upload, from_json, shown_name
from .workers import Job, Worker, Workers

_TAKES: Final = ("head", "settings", "max_size")
"""What BrushLabels may say, with "mdrt_" before it: Label Studio sends the interface each time."""

_WAIT: Final = 30.0  # seconds, for one picture's file


class _NoRedirects(HTTPRedirectHandler):
    """Another server, to which Label Studio may point, is not one that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Source:
    """The Label Studio that pictures are fetched from, and no other server.

    Attributes:
        url: of it, as "http://127.0.0.1:8080".
        key: an access token of a user of it: a personal one, or a legacy one.
    """

    url: str
    key: str = field(default="", repr=False)

    def fetch(self, path: str, most_bytes: int) -> bytes:
        """The file that a task names.

        Raises:
            Problem: it is of another server, or cannot be had.
        """
        wanted, own = urlsplit(urljoin(self.url, path)), urlsplit(self.url)
        if (wanted.scheme, wanted.netloc) != (own.scheme, own.netloc):
            raise bad(
                f"the task's picture is at {wanted.scheme}://{wanted.netloc}, and only those of "
                f"{self.url} are fetched"
            )
        try:
            with self._open(wanted.geturl(), self._authorization()) as answer:
                data: bytes = answer.read(most_bytes + 1)
        except HTTPError as error:
            raise Problem(
                HTTPStatus.BAD_GATEWAY,
                f"Label Studio answered {error.code} for {path[:80]}; is LABEL_STUDIO_API_KEY "
                "a token of a user who sees the project?",
            ) from None
        except (URLError, OSError, ValueError) as error:
            raise Problem(
                HTTPStatus.BAD_GATEWAY, f"Label Studio at {self.url} does not answer: {error}"
            ) from None
        if len(data) > most_bytes:
            raise too_large(f"picture {path[:80]} has more than {most_bytes:,} bytes")
        return data

    def _authorization(self) -> dict[str, str]:
        """Personal tokens are JSON Web Tokens, which are exchanged for one of a few minutes."""
        if not self.key:
            return {}
        if self.key.count(".") != 2:
            return {"Authorization": f"Token {self.key}"}
        body = json.dumps({"refresh": self.key}).encode()
        with self._open(
            urljoin(self.url, "/api/token/refresh"), {"Content-Type": "application/json"}, body
        ) as answer:
            return {"Authorization": f"Bearer {json.load(answer)['access']}"}

    def _open(self, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Any:
        fetch = Fetch(url, body, dict(headers))
        return build_opener(_NoRedirects).open(fetch, timeout=_WAIT)


@dataclass(frozen=True)
class Interface:
    """What of a labelling interface is filled in.

    Attributes:
        brush: the name of its brush labels.
        image: the name of its picture.
        key: of the picture in a task's data.
        names: label → the class that it stands for: its name, or with `predicted_values` synonyms.
        asked: fields of the question, of `_TAKES`.
    """

    brush: str
    image: str
    key: str
    names: Mapping[str, ClassName]
    asked: Mapping[str, str]


def interface(config: Any) -> Interface:
    """The labelling interface that a configuration describes.

    Raises:
        Problem: it has no picture with brush labels.
    """
    if not isinstance(config, str) or "<!" in config.replace("<!--", ""):
        raise bad("label_config is no labelling interface in XML")
    try:
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, UnicodeError) as error:
        raise bad(f"label_config is no XML: {error}") from None
    brush = root.find(".//BrushLabels")
    image = None
    if brush is not None:
        aims = brush.get("toName", "")
        image = next((tag for tag in root.iter("Image") if tag.get("name") == aims), None)
    if brush is None or image is None:
        raise bad("the labelling interface has no BrushLabels on an Image; mdrt fills those in")
    names: dict[str, ClassName] = {}
    for label in brush.iter("Label"):
        value = label.get("value", "")
        predicted = [name.strip() for name in label.get("predicted_values", "").split(",")]
        named = tuple(name for name in predicted if name)
        names[value] = value if not named else named[0] if len(named) == 1 else named
    key = (image.get("value") or "").removeprefix("$")
    given = {name: brush.get(f"mdrt_{name}") for name in _TAKES}
    asked = {name: value for name, value in given.items() if value is not None}
    return Interface(brush.get("name", ""), aims, key, names, asked)


class LabelStudio:
    """The endpoints that Label Studio calls."""

    def __init__(self, workers: Workers, metrics: Metrics, source: Source | None) -> None:
        self.workers, self.metrics, self.source = workers, metrics, source

    @property
    def routes(self) -> list[Route]:
        """Where Label Studio looks for them."""
        return [
            Route("/health", self.health),
            Route("/setup", self.setup, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/webhook", self.webhook, methods=["POST"]),
        ]

    @property
    def version(self) -> str:
        """By which predictions are told apart from another model's."""
        manifest = self.workers.segmenter.manifest
        return f"{manifest.model_id} {manifest.sha256[:12]}"

    async def health(self, request: Request) -> Response:
        """That the server is there."""
        return JSONResponse({"status": "UP", "model_class": "mdrt"})

    async def setup(self, request: Request) -> Response:
        """A project begins to use the model: its interface is checked."""
        body = await calls.json_object(request)
        if body.get("schema"):
            self._question(interface(body["schema"]))
        return JSONResponse({"model_version": self.version})

    async def webhook(self, request: Request) -> Response:
        """Something changed in a project. Nothing is trained, so nothing is done."""
        await calls.json_object(request)
        return JSONResponse({"status": "UP", "trained": False})

    async def predict(self, request: Request) -> Response:
        """Brush strokes for the pictures of tasks."""
        body = await calls.json_object(request)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise bad("tasks is missing, expected a list of tasks")
        if len(tasks) > self.workers.limits.pictures:
            raise too_large(
                f"{len(tasks)} tasks came, and at most {self.workers.limits.pictures} are taken"
            )
        found = interface(body.get("label_config"))
        asked = self._question(found)
        uploads = [await self._upload(task, found) for task in tasks]
        jobs = [self._job(upload, asked, found) for upload in uploads]
        outcomes = await calls.through(request, self.workers, jobs) if jobs else []
        for outcome in outcomes:
            if isinstance(outcome, HTTPException):
                raise outcome
        return JSONResponse({"results": outcomes, "model_version": self.version})

    def _question(self, found: Interface) -> Question:
        """What is asked: the interface's labels, read as it says."""
        fields = {**found.asked, "classes": list(found.names.values())}
        return question(fields, self.workers.segmenter, self.workers.limits, ["json"])

    async def _upload(self, task: Mapping[str, Any], found: Interface) -> Upload:
        data = task.get("data")
        value = data.get(found.key) if isinstance(data, Mapping) else None
        if not isinstance(value, str):
            raise bad(f"task {task.get('id')} has no picture under {found.key!r}")
        if value.startswith("data:"):
            return from_json(value)
        if self.source is None:
            raise bad(
                f"task {task.get('id')}'s picture is at {value[:60]!r}, and nothing is fetched; "
                "start `mdrt serve --label-studio URL` with the address of your Label Studio"
            )
        most = self.workers.limits.bytes
        file = await asyncio.to_thread(self.source.fetch, value, most)
        return Upload(file, shown_name(unquote(urlsplit(value).path)))

    def _job(self, upload: Upload, asked: Question, found: Interface) -> Job:
        name, limits = handle(upload.data, asked.max_size), self.workers.limits

        def work(worker: Worker) -> dict[str, Any]:
            look = worker.look_at(name, lambda: upload.read(limits), asked.max_size)
            result = asked.ask(look)
            self.metrics.segmented(result.timings)
            labels = dict(zip(result.classes, found.names, strict=True))
            regions = [
                region
                | {"from_name": found.brush, "to_name": found.image}
                | {
                    "value": region["value"]
                    | {"brushlabels": [labels[name] for name in region["value"]["brushlabels"]]}
                }
                for region in strokes(result)
            ]
            score = float(result.confidence.mean())
            return {"result": regions, "score": score, "model_version": self.version}

        return Job(work, name)
