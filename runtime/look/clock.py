"""When each stage ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..sessions.device import Device
from ..sessions.trace import Trace


class StageClock:
    """Times stages by the device's marks, which it need not wait for."""

    def __init__(self, device: Device, trace: Trace | None = None) -> None:
        self.device, self.trace = device, trace
        self._stages: list[tuple[str, Any, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = self.device.mark()
        with self.trace.span(name) if self.trace else nullcontext():
            yield
        self._stages.append((name, start, self.device.mark()))

    def seconds(self) -> dict[str, float]:
        """By stage, in the order of their first start; when all is done, and once."""
        total: dict[str, float] = {}
        for name, start, end in self._stages:
            total[name] = total.get(name, 0.0) + self.device.seconds(start, end)
        self._stages.clear()
        return total
