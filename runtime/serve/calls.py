"""A request's pictures through the workers: waited for as long as its caller does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import MdrtError
from . import problems
from .limits import Limits
from .problems import Problem, bad
from .uploads import Upload, from_json, shown_name
from .workers import Job, Workers

_FIELDS: Final = 24
_FIELD: Final = 1 << 16
_log: Final = logging.getLogger("mdrt.serve")


class Received(NamedTuple):
    """A request, read: what is said, and the pictures."""

    fields: dict[str, Any]
    uploads: list[Upload]


async def received(request: Request, limits: Limits) -> Received:
    """The fields and pictures of a request: a form, JSON, or a picture with a query.

    Raises:
        Problem: it is none of these.
    """
    fields: dict[str, Any] = dict(request.query_params)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        uploads = []
        async with request.form(
            max_files=limits.pictures, max_fields=_FIELDS, max_part_size=_FIELD
        ) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    fields[name] = value
                elif name not in ("image", "images"):
                    raise bad(f"a file came as {name[:40]!r}, expected image")
                else:
                    uploads.append(Upload(await value.read(), shown_name(value.filename)))
        return Received(fields, uploads)
    if media.startswith("image/") or media == "application/octet-stream":
        name = shown_name(fields.pop("name", None))
        return Received(fields, [Upload(await request.body(), name)])
    if media in ("application/json", ""):
        body = await json_object(request)
        given = body.pop("images", None)
        pictures = [body.pop("image")] if "image" in body else []
        if given is not None and not isinstance(given, list):
            raise bad(f"images is {type(given).__name__}, expected a list")
        pictures += given or []
        if len(pictures) > limits.pictures:
            raise problems.too_large(
                f"{len(pictures)} pictures came, and at most {limits.pictures} are taken at once"
            )
        return Received(fields | body, [from_json(value) for value in pictures])
    raise Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the request is {media[:60]!r}, expected multipart/form-data, application/json or image/…",
    )


async def json_object(request: Request) -> dict[str, Any]:
    """The object that a request's body is; none for an empty one.

    Raises:
        Problem: it is something else.
    """
    body = await request.body()
    if not body:
        return {}
    try:
        found = await request.json()
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise bad(f"the body is a JSON {type(found).__name__}, expected an object")
    return found


async def through(request: Request, workers: Workers, jobs: Sequence[Job]) -> list[Any]:
    """What the jobs gave, each a value or the Problem that it had.

    Raises:
        Problem: the line is full, it took too long, or the caller is gone.
    """
    workers.submit(jobs)
    every: asyncio.Future[Any] = asyncio.gather(
        *(asyncio.wrap_future(job.done) for job in jobs), return_exceptions=True
    )
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
    seconds = workers.limits.seconds
    try:
        ended, _ = await asyncio.wait(
            {every, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if every in ended:
            hide = str(workers.segmenter.bundle.path)
            return [_problem(outcome, hide) for outcome in every.result()]
        if gone in ended:
            raise HTTPException(499, "the caller is gone")
        raise Problem(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"no answer within {seconds:g} s; send fewer or smaller pictures, or a lower max_size",
        )
    finally:
        gone.cancel()
        if every.cancel():  # what nobody asks of it then, asyncio would print at its end
            every.add_done_callback(lambda ended: ended.exception())
        for job in jobs:
            if not job.done.done():
                workers.stop(job)


async def _gone(request: Request) -> None:
    """Until the caller is."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problem(outcome: Any, hide: str) -> Any:
    """An exception as its caller is told it; anything else as it is."""
    if isinstance(outcome, MdrtError):
        return problems.of_error(outcome, hide)
    if isinstance(outcome, BaseException) and not isinstance(outcome, HTTPException):
        _log.error("a picture failed", exc_info=outcome)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed at this; its log says more"
        )
    return outcome
