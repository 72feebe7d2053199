"""What a caller is told when there is no answer: a status and one line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..errors import DeviceMemoryError, MdrtError


class Problem(HTTPException):
    """A request that has no answer, and why; `{"error": …}` is what the caller gets."""

    def __init__(
        self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, reason, dict(headers or {}))


def bad(reason: str) -> Problem:
    """A request that is put together wrongly."""
    return Problem(HTTPStatus.BAD_REQUEST, reason)


def too_large(reason: str) -> Problem:
    """More than the server takes on."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)


def of_error(error: MdrtError, hide: str = "") -> Problem:
    """What mdrt says of a picture, of names or of settings.

    Args:
        hide: a path of the server's that callers need not know.
    """
    short = isinstance(error, DeviceMemoryError)
    status = HTTPStatus.SERVICE_UNAVAILABLE if short else HTTPStatus.UNPROCESSABLE_ENTITY
    text = str(error)
    return Problem(status, text.replace(hide, "the model") if hide else text)


def answer(problem: HTTPException) -> JSONResponse:
    """The problem as it is sent."""
    return JSONResponse({"error": problem.detail}, problem.status_code, problem.headers)
