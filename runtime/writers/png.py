"""mdrt's own files: label map, overlay and record of each picture, beside one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..disk.atomic import State
from ..pictures.output import printable, read_record, result_files, write_result
from ..segmentation import SCHEMA, Segmentation
from .base import Run


class PngOutput:
    """The results of a run in one folder; each record says what made it, so there is no other
    memory of the run."""

    def __init__(
        self,
        targets: Mapping[Path, Path],
        run: Run,
        overlay: bool,
        seen: Mapping[Path, State] | None = None,
    ) -> None:
        """Of pictures, each with its label map's path without suffix; `seen` is what
        `check_targets` returned."""
        self._targets, self._run, self._overlay, self._seen = targets, run, overlay, seen

    def holds(self, path: Path) -> bool:
        """Whether a picture's result by this run is there, and is newer than the picture."""
        files = result_files(self._targets[path], self._overlay)
        record = read_record(files["record"])
        if record is None or record["schema"] != SCHEMA:
            return False
        try:
            made = min(file.stat().st_mtime_ns for file in files.values())
            newer = made >= path.stat().st_mtime_ns
        except OSError:  # a file of it is not there
            return False
        try:
            named = Path(record["image"]).name == printable(path.name)
            return newer and named and self._run.made(record)
        except (LookupError, TypeError, AttributeError):  # a record that somebody edited
            return False

    def write(self, path: Path, result: Segmentation, files: Mapping[str, str]) -> dict[str, Any]:
        """Write a picture's files; returns its record.

        Args:
            files: what else was written of it, for the record.

        Raises:
            OutputError: a file cannot be written.
        """
        target = self._targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        background, seen = self._run.background, self._seen
        return write_result(target, result, background, self._overlay, seen, files)
