"""All that one run writes, in every format that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..disk.atomic import State
from ..errors import OutputError
from ..pictures.output import check_targets, printable, result_files
from ..segmentation import Segmentation
from . import PNG, find_format
from .base import Run, name_pictures
from .folder import Folder, check_folder
from .png import PngOutput


def check_outputs(
    formats: Sequence[str],
    out: Path,
    targets: Mapping[Path, Path],
    inputs: Iterable[str | Path],
    overlay: bool,
    overwrite: bool,
) -> dict[Path, State]:
    """See, before anything is loaded, that results replace nothing but results of earlier runs.

    Args:
        formats: those asked for.
        out: the folder of all results: mdrt's own files lie in it, each other format in a folder of
            its own name.
        targets: each picture with its label map's path without suffix.
        inputs: files that are read, pictures or not.
        overlay: whether overlays are written too.
        overwrite: whether files of other origin may be replaced.

    Returns:
        What stands where each of mdrt's own files goes: nothing else is replaced later.

    Raises:
        OutputError: they would.
    """
    inputs = list(inputs)
    seen: dict[Path, State] = {}
    if PNG in formats:
        results = [result_files(target, overlay) for target in targets.values()]
        seen = check_targets(results, inputs, overwrite)
    for name in formats:
        if name == PNG:
            continue
        check_folder(out / name, inputs, overwrite)
        if PNG in formats and any(t.is_relative_to(out / name) for t in targets.values()):
            raise OutputError(
                f"results of the pictures' own folder {name} would mix with format {name}; "
                "write one of them into another folder",
                out=...,
            )
    return seen


class Outputs:
    """The files of one run. Used by one thread at a time; at its end, however it ends, the files of
    the run are written, of the pictures that are done.

    Attributes:
        pictures: those of the run, in order.
    """

    def __init__(
        self,
        formats: Sequence[str],
        out: Path,
        run: Run,
        targets: Mapping[Path, Path],
        places: Mapping[Path, Path],
        seen: Mapping[Path, State] | None = None,
        overlay: bool = True,
        resume: bool = False,
    ) -> None:
        """Begin.

        Args:
            formats, out, targets, overlay: as for `check_outputs`.
            run: what all pictures have in common.
            places: as for `name_pictures`.
            seen: what `check_outputs` returned; None: whatever stands there is replaced.
            resume: go on with an earlier run of the same kind.

        Raises:
            OutputError: a folder cannot be written to, or a format cannot hold such a run.
        """
        self.pictures = list(targets)
        self._run, self._named = run, name_pictures(targets, out, places)
        self._png = PngOutput(targets, run, overlay, seen) if PNG in formats else None
        kinds = {name: find_format(name) for name in formats if name != PNG}
        for kind in kinds.values():
            kind.check(run)
        self._folders = {
            name: Folder(out / name, kind, run, resume) for name, kind in kinds.items()
        }

    def hold(self, path: Path) -> bool:
        """Whether a picture is there in every format, and has not changed since."""
        here = self._png is None or self._png.holds(path)
        return here and all(folder.holds(self._named[path]) for folder in self._folders.values())

    def write(self, path: Path, result: Segmentation) -> dict[str, Any]:
        """Write a picture in every format; returns its record.

        Raises:
            OutputError: a file cannot be written.
        """
        for folder in self._folders.values():
            folder.write(result, self._named[path])
        files = {name: printable(folder.path) for name, folder in self._folders.items()}
        if self._png is not None:
            return self._png.write(path, result, files)
        return result.record(self._run.background) | {"files": files}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for folder in self._folders.values():
                stack.callback(folder.close)


def needs_scores(formats: Iterable[str]) -> bool:
    """Whether one of them writes the scores of all classes."""
    return any(find_format(name).scores for name in formats if name != PNG)
