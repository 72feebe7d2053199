"""The builder's own progress monitor; also the one way to stop a build."""

from __future__ import annotations

from typing import Any, Protocol


class Phases(Protocol):
    """Told how a build goes on, in threads of the builder's own; phases lie within each other."""

    def begin(self, name: str, steps: int | None) -> None:
        """A phase begins, of so many steps; None: nobody knows."""

    def step(self, name: str, done: int) -> None:
        """So many steps of it are done."""

    def end(self, name: str) -> None:
        """It is over."""


class Unwatched:
    """Nobody is told."""

    def begin(self, name: str, steps: int | None) -> None: ...

    def step(self, name: str, done: int) -> None: ...

    def end(self, name: str) -> None: ...


def progress_monitor(trt: Any, phases: Phases) -> Any:
    """A monitor for `IBuilderConfig.progress_monitor`, which passes on what the builder says.

    The builder calls it from threads of its own. `cancel()` ends the build at its next step.

    Args:
        trt: the library's module, whose class has to be inherited from.
        phases: told of each phase; the name of one within another is indented.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._shown: dict[str, str] = {}
            self._cancelled = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._shown[name] = name if parent is None else f"  {name}"
            phases.begin(self._shown[name], steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(self._shown[name], step + 1)
            return not self._cancelled

        def phase_finish(self, name: str) -> None:
            phases.end(self._shown.pop(name))

        def cancel(self) -> None:
            self._cancelled = True

    return Monitor()
