"""The HTTP API: pictures and looks are asked, heads and the model described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ... import __version__
from ..heads import HEADS
from ..heads.described import described
from ..writers.base import Run
from . import answers, calls, openapi
from .answers import RECORD, Answer, answer, run_of
from .limits import Limits
from .looks import handle
from .metrics import MEDIA, Metrics
from .problems import bad
from .questions import Question, question
from .uploads import Upload, shown_name
from .workers import Job, Worker, Workers, not_kept


class Api:
    """The endpoints over some workers."""

    def __init__(self, workers: Workers, metrics: Metrics) -> None:
        self.workers, self.metrics = workers, metrics

    @property
    def limits(self) -> Limits:
        return self.workers.limits

    @property
    def routes(self) -> list[Route]:
        """Where each endpoint is."""
        return [
            Route("/v1/segment", self.segment, methods=["POST"]),
            Route("/v1/looks", self.open_look, methods=["POST"]),
            Route("/v1/looks/{look}/segment", self.ask_look, methods=["POST"]),
            Route("/v1/looks/{look}", self.close_look, methods=["DELETE"]),
            Route("/v1/heads", self.heads),
            Route("/v1/model", self.model),
            Route("/openapi.json", self.openapi),
            Route("/ready", self.ready),
            Route("/metrics", self.numbers),
        ]

    async def segment(self, request: Request) -> Response:
        """Pictures and a question: one answer, or as many."""
        fields, uploads = await calls.received(request, self.limits)
        asked = self._question(fields)
        if not uploads:
            raise bad("no picture; send one as image")
        run = run_of(asked, self.workers.segmenter)
        keys = _keys(uploads)
        jobs = [self._job(*each, asked, run) for each in zip(uploads, keys, strict=True)]
        outcomes = await calls.through(request, self.workers, jobs)
        if len(outcomes) == 1:
            return self._one(outcomes[0], asked, run)
        made = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        records = [
            self._record(outcome, asked)
            if isinstance(outcome, Answer)
            else {"image": upload.name, "error": outcome.detail}
            for outcome, upload in zip(outcomes, uploads, strict=True)
        ]
        if asked.format == RECORD:
            return JSONResponse({"results": records})
        failed = [record for record in records if "error" in record]
        if not made:
            raise answers.none(failed)
        return self._files(made, asked, run, failed)

    async def open_look(self, request: Request) -> Response:
        """A picture to be asked more than once."""
        fields, uploads = await calls.received(request, self.limits)
        if len(uploads) != 1:
            raise bad(f"{len(uploads)} pictures came, expected one")
        if unfit := set(fields) - {"max_size"}:
            raise bad(f"field {min(unfit)[:40]!r} goes with a question, not with a look")
        asked, upload = self._question(fields), uploads[0]
        name = handle(upload.data, asked.max_size)

        def work(worker: Worker) -> dict[str, Any]:
            look = worker.look_at(name, lambda: upload.read(self.limits), asked.max_size)
            return {"look": name, "size": list(look.size), "max_size": asked.max_size}

        outcome = (await calls.through(request, self.workers, [Job(work, name)]))[0]
        if isinstance(outcome, HTTPException):
            raise outcome
        return JSONResponse(outcome, HTTPStatus.CREATED)

    async def ask_look(self, request: Request) -> Response:
        """A question to a look."""
        name, fields = self._kept(request), dict(request.query_params)
        given = await calls.received(request, self.limits)
        if given.uploads:
            raise bad("the look has its picture already; send the question alone")
        fields |= given.fields
        if "max_size" in fields:
            raise bad("max_size is a look's own; post the picture again with another")
        title, asked = fields.pop("name", None), self._question(fields)
        upload = Upload(b"", shown_name(title))
        run = run_of(asked, self.workers.segmenter)

        def work(worker: Worker) -> Answer:
            return answer(worker.look(name), asked, upload, run)

        outcomes = await calls.through(request, self.workers, [Job(work, name)])
        return self._one(outcomes[0], asked, run, {"look": name})

    async def close_look(self, request: Request) -> Response:
        """Let a look go."""
        name = self._kept(request)

        def work(worker: Worker) -> None:
            if not worker.looks.drop(name):
                raise not_kept(name)

        outcome = (await calls.through(request, self.workers, [Job(work, name)]))[0]
        if isinstance(outcome, HTTPException):
            raise outcome
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def heads(self, request: Request) -> Response:
        """Every head and its settings."""
        manifest = self.workers.segmenter.manifest
        return JSONResponse([described(head, manifest) for head in HEADS.values()])

    async def model(self, request: Request) -> Response:
        """The model, the limits and the formats."""
        manifest = self.workers.segmenter.manifest
        return JSONResponse(
            {
                "mdrt": __version__,
                "model": manifest.model_id,
                "bundle": manifest.sha256,
                "knows": list(manifest.classes),
                "native_size": manifest.image.native_size,
                "formats": dict(answers.FORMATS),
                "limits": vars(self.limits),
            }
        )

    async def openapi(self, request: Request) -> Response:
        """The API's own description."""
        return JSONResponse(openapi.describe(self.limits, self.workers.segmenter.manifest))

    async def ready(self, request: Request) -> Response:
        """Whether a picture would be taken now."""
        full = len(self.workers.line) >= self.workers.line.places
        state = "closing" if self.workers.closing else "full" if full else "ready"
        status = HTTPStatus.OK if state == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": state}, status)

    async def numbers(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self.metrics.text(), media_type=MEDIA)

    def _question(self, fields: Mapping[str, Any]) -> Question:
        return question(fields, self.workers.segmenter, self.limits, list(answers.FORMATS))

    def _kept(self, request: Request) -> str:
        name: str = request.path_params["look"]
        if not self.workers.knows(name):
            raise not_kept(name)
        return name

    def _job(self, upload: Upload, key: str, asked: Question, run: Run) -> Job:
        name = handle(upload.data, asked.max_size)

        def work(worker: Worker) -> Answer:
            look = worker.look_at(name, lambda: upload.read(self.limits), asked.max_size)
            return answer(look, asked, upload, run, key)

        return Job(work, name)

    def _one(
        self, outcome: Any, asked: Question, run: Run, more: Mapping[str, Any] | None = None
    ) -> Response:
        if not isinstance(outcome, Answer):
            raise outcome
        if asked.format == RECORD:
            return JSONResponse(self._record(outcome, asked) | dict(more or {}))
        return self._files([outcome], asked, run)

    def _record(self, made: Answer, asked: Question) -> dict[str, Any]:
        self.metrics.segmented(made.timings)
        unknown = self.workers.segmenter.unknown(asked.classes or ())
        return made.record | {"unknown": unknown}

    def _files(
        self,
        made: Sequence[Answer],
        asked: Question,
        run: Run,
        failed: Sequence[Mapping[str, Any]] = (),
    ) -> Response:
        for one in made:
            self.metrics.segmented(one.timings)
        name, data, media = answers.packed(made, asked, run, failed)
        disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
        return Response(data, media_type=media, headers=disposition)


def _keys(uploads: Sequence[Upload]) -> list[str]:
    """A name for the files of each picture, of which no two are the same."""
    keys: list[str] = []
    for upload in uploads:
        key, number = upload.stem, 1
        while key.lower() in (taken.lower() for taken in keys):
            number += 1
            key = f"{upload.stem}-{number}"
        keys.append(key)
    return keys
