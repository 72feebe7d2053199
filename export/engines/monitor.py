"""The builder's own progress monitor, drawn as bars; also the one way to stop a build."""

from __future__ import annotations

from typing import Any

from rich.progress import Progress, TaskID


def progress_monitor(trt: Any, bars: Progress) -> Any:
    """A monitor for `IBuilderConfig.progress_monitor`: one bar for each phase under way.

    The builder calls it from threads of its own. `cancel()` ends the build at its next step.

    Args:
        trt: the library's module, whose class has to be inherited from.
        bars: where phases appear and, when they are finished, disappear.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._tasks: dict[str, TaskID] = {}
            self._cancelled = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._tasks[name] = bars.add_task(name if parent is None else f"  {name}", total=steps)

        def step_complete(self, name: str, step: int) -> bool:
            bars.update(self._tasks[name], completed=step + 1)
            return not self._cancelled

        def phase_finish(self, name: str) -> None:
            bars.remove_task(self._tasks.pop(name))

        def cancel(self) -> None:
            self._cancelled = True

    return Monitor()
