"""What ran when: mdrt's stages and the nodes of every graph, in one trace.

The file is Chrome's trace event format, which Perfetto and chrome://tracing open: one row a
thread of mdrt's, one a graph.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from .base import Session
from .ort import OrtSession

_PROCESS: Final = 1
_GRAPH_ROWS: Final = 1000  # rows of graphs come after those of threads

Event = dict[str, Any]


class Trace:
    """Collects spans; threads may share it."""

    def __init__(self) -> None:
        self._epoch_ns = time.time_ns()
        self._started_ns = time.perf_counter_ns()
        self._rows: dict[str, int] = {}
        self._events: list[Event] = []
        self._lock = threading.Lock()

    @contextmanager
    def span(self, name: str, **details: Any) -> Iterator[None]:
        """Record the time that a block takes, on the row of the thread that runs it."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end = time.perf_counter_ns()
            with self._lock:
                self._add(
                    self._row(), name, start - self._started_ns, end - start, "stage", details
                )

    def collect(self, *sessions: Session) -> None:
        """Add what ONNX Runtime noted of each of its sessions; it stops noting with that."""
        ours = (session for session in sessions if isinstance(session, OrtSession))
        for number, session in enumerate(ours):
            row = _GRAPH_ROWS + number
            began_ns, events = session.end_profile()
            offset = began_ns - self._epoch_ns
            self._name_row(row, session.path.name)
            for event in events:
                if event.get("ph") != "X" or event["cat"] not in ("Node", "Session"):
                    continue
                details = event["args"]
                name = event["name"].removesuffix("_kernel_time")
                kept = {"node": name} | {
                    key: details[key]
                    for key in ("input_type_shape", "output_type_shape")
                    if key in details
                }
                self._add(
                    row,
                    details.get("op_name", name),
                    1000 * event["ts"] + offset,
                    1000 * event["dur"],
                    event["cat"].lower(),
                    kept,
                )

    def write(self, file: BinaryIO) -> None:
        """Write the trace as JSON."""
        whole = {"traceEvents": self._events, "displayTimeUnit": "ms"}
        file.write(json.dumps(whole).encode())

    def _row(self) -> int:
        name = threading.current_thread().name
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            self._name_row(self._rows[name], f"mdrt, {name}")
        return self._rows[name]

    def _name_row(self, row: int, name: str) -> None:
        described: Event = {"ph": "M", "pid": _PROCESS, "tid": row}
        self._events += [
            described | {"name": "thread_name", "args": {"name": name}},
            described | {"name": "thread_sort_index", "args": {"sort_index": row}},
        ]

    def _add(
        self, row: int, name: str, start_ns: int, length_ns: int, kind: str, details: Event
    ) -> None:
        self._events.append(
            {
                "ph": "X",
                "pid": _PROCESS,
                "tid": row,
                "name": name,
                "cat": kind,
                "ts": start_ns / 1000,
                "dur": length_ns / 1000,
                "args": details,
            }
        )
