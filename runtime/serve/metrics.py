"""What Prometheus reads of a server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .workers import Workers

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

MEDIA: Final = CONTENT_TYPE_LATEST


class Metrics:
    """Counts of one server's requests, and what its workers are at."""

    def __init__(self, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfWorkers(workers))
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "mdrt_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self._duration = Histogram(
            "mdrt_request_seconds",
            "From a request's arrival to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = Counter(
            "mdrt_stage_seconds", "Time by stage.", ("stage",), registry=self._registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def segmented(self, timings: Mapping[str, float]) -> None:
        """Count the stages of a result."""
        for stage, seconds in timings.items():
            self._stages.labels(stage).inc(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class Counted:
    """What counts every request that passes through it, by the route that it took."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.answered(_route(scope), status, time.perf_counter() - start)


def _route(scope: Scope) -> str:
    """The pattern of the path, not the path: callers must not make new series."""
    route = scope.get("route")
    return route.path if isinstance(route, Route) else "other"


class _OfWorkers(Collector):
    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def collect(self) -> Iterable[Metric]:
        every = list(self.workers.every)
        looks: list[tuple[str, str, Any]] = [
            ("mdrt_workers", "Workers.", len(every)),
            ("mdrt_workers_busy", "Workers at work.", self.workers.busy),
            ("mdrt_waiting", "Pictures that wait for a worker.", len(self.workers.line)),
            ("mdrt_waiting_most", "Pictures that may wait.", self.workers.line.places),
            ("mdrt_looks", "Looks that are kept.", sum(len(w.looks) for w in every)),
            ("mdrt_looks_bytes", "Bytes that they take.", sum(w.looks.nbytes for w in every)),
        ]
        for name, text, value in looks:
            yield GaugeMetricFamily(name, text, value)
        asked = CounterMetricFamily(
            "mdrt_looks_asked", "Questions to looks that were kept, or not.", labels=("kept",)
        )
        asked.add_metric(("yes",), sum(worker.hits for worker in every))
        asked.add_metric(("no",), sum(worker.misses for worker in every))
        yield asked
