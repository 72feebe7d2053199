"""The server as one application: guard, counts, page, API and the protocols of labelling tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import MdrtError
from .api import Api
from .guard import Guard
from .labelstudio import LabelStudio, Source
from .metrics import Counted, Metrics
from .problems import Problem, answer, of_error
from .workers import Workers

PAGE: Final = Path(__file__).parent / "page"

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def create_app(
    workers: Workers,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = LOOPBACK,
    origins: Collection[str] = (),
    label_studio: Source | None = None,
) -> Starlette:
    """The application over workers, which it closes at its end.

    Args:
        workers: that are loaded.
        token: that callers must know, None for none.
        hosts: names the server may be called by, None for any.
        origins: of pages elsewhere that may call it.
        label_studio: where pictures of its tasks are fetched from; None fetches none.
    """
    metrics = Metrics(workers)
    api, studio = Api(workers, metrics), LabelStudio(workers, metrics, label_studio)

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        workers.close()

    middleware = [
        Middleware(Counted, metrics=metrics),
        Middleware(
            Guard, most_bytes=workers.limits.bytes, token=token, hosts=hosts, origins=origins
        ),
    ]
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=["Content-Disposition", "Retry-After"],
            )
        )
    return Starlette(
        routes=[
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
            *api.routes,
            *studio.routes,
        ],
        middleware=middleware,
        exception_handlers={
            HTTPException: _told,
            MdrtError: _told,
            Exception: _failed,
        },
        lifespan=lifespan,
    )


async def _told(request: Request, error: Exception) -> Response:
    problem = of_error(error) if isinstance(error, MdrtError) else error
    assert isinstance(problem, HTTPException)
    return answer(problem)


async def _failed(request: Request, error: Exception) -> Response:
    """The traceback is in the server's log, and nowhere else."""
    return answer(
        Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed at this; its log says more")
    )
