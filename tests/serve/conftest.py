"""A server over the embedded model, asked as its callers do."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mdrt

pytest.importorskip("starlette", reason="needs the extra serve")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from mdrt.runtime.serve.app import create_app
from mdrt.runtime.serve.limits import Limits
from mdrt.runtime.serve.workers import Workers

SMALL = Limits(
    bytes=1 << 20, pixels=1_000_000, pictures=4, names=20, characters=40, max_size=512, seconds=30
)


def encoded(picture: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format=kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def png(picture: NDArray[np.uint8]) -> bytes:
    return encoded(picture)


@pytest.fixture(scope="session")
def other_png(picture: NDArray[np.uint8]) -> bytes:
    return encoded(np.ascontiguousarray(picture[:, ::-1]))


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """One worker, which closes with the last test."""
    found = Workers(mdrt.Segmenter, 1, SMALL)
    yield found
    found.close()


@pytest.fixture(scope="session")
def app(workers: Workers) -> Starlette:
    return create_app(workers, hosts=None)


@pytest.fixture
def client(app: Starlette) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)  # lifespan is the workers' fixture's


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[TestClient, Workers]]]:
    """Makes servers of other limits or options, for one test."""
    made: list[Workers] = []

    def serve(
        limits: Limits = SMALL, count: int = 1, load: Any = mdrt.Segmenter, **options: Any
    ) -> tuple[TestClient, Workers]:
        made.append(Workers(load, count, limits))
        found = create_app(made[-1], **{"hosts": None, **options})
        return TestClient(found, raise_server_exceptions=False), made[-1]

    yield serve
    for workers in made:
        workers.close()
