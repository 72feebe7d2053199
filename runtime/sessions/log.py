"""What a library says while it works: errors, and the layers that are left after fusion."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def open_log(trt: Any) -> Any:
    """The one logger of a library's module; it ignores every later one, so all builds share it.

    Nothing is printed. `errors` are kept for the one line that a user is told, `layers` is the
    builder's description of the last engine: a line a layer, where its profiling is detailed.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.Severity.VERBOSE and ", LayerType: " in message:
                self.layers += [line for line in message.splitlines() if ", LayerType: " in line]

    return Log()
