"""A server from its start to its end: workers, warmed up, then uvicorn over the application."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import numpy as np
import uvicorn

from ..errors import MdrtError
from ..segmenter import Segmenter
from .app import LOOPBACK, create_app
from .labelstudio import Source
from .limits import Limits
from .workers import Job, Worker, Workers

_DRAIN = 5  # seconds, beyond a request's own, that its end may take


def share_of_cores(workers: int) -> int:
    """Threads of one operator, so that workers do not take cores from one another."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers)


def start_workers(load: Callable[[], Segmenter], count: int, limits: Limits) -> Workers:
    """Workers that have segmented once: no caller waits for what is built at the first picture.

    Raises:
        MdrtError: a model does not load, or does not compute.
    """
    workers = Workers(load, count, limits)
    try:
        for index, worker in enumerate(workers.every):
            _warm(worker, index, workers)
    except BaseException:
        workers.close()
        raise
    return workers


def _warm(worker: Worker, index: int, workers: Workers) -> None:
    """One picture through a worker."""
    side = worker.segmenter.manifest.image.native_size
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)

    def work(own: Worker) -> None:
        own.segmenter(picture, list(own.segmenter.manifest.classes) or ["sky", "ground"])

    job = Job(work)
    workers.line.put([(job, index)])
    job.done.result()


def run(
    workers: Workers,
    host: str,
    port: int,
    *,
    token: str | None,
    origins: Collection[str],
    label_studio: Source | None,
    started: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; who is waiting then is answered, and the signal raised again.

    Args:
        host, port: to listen at; port 0 takes a free one.
        token, origins, label_studio: as for `create_app`.
        started: told the address when pictures are taken.

    Raises:
        MdrtError: the address is taken, or is none.
    """
    hosts = LOOPBACK if host in LOOPBACK else None
    app = create_app(workers, token=token, hosts=hosts, origins=origins, label_studio=label_studio)
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=int(workers.limits.seconds) + _DRAIN,
    )
    try:
        listening = config.bind_socket()
    except SystemExit:  # uvicorn's, when the address is taken
        raise MdrtError(
            f"{host}:{port} cannot be listened at: it is taken, or not this machine's; "
            "choose another port"
        ) from None
    with listening:
        listening.listen(config.backlog)  # who comes before the first turn of the loop waits
        at = f"[{host}]" if ":" in host else host
        started(f"http://{at}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
