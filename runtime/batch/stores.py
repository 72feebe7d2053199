"""Where shards come to lie: a folder that appears whole, here or in an object store."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..disk.atomic import (
    aside_folder,
    recover,
    settle_folder,
    settle_tree,
    write_atomically,
)
from ..disk.folders import rename_new
from ..errors import OutputError
from .sources import file_system, is_remote

MANIFEST: Final = "manifest.json"
"""Of a shard: its pictures. Where it is, the shard is whole."""

RUN: Final = "mdrt.json"

_WITHOUT_FOLDERS: Final = {"s3", "gcs", "abfs"}
"""Object stores, as pyarrow calls them."""


class Store:
    """The output of a batch. Small enough to be sent to every worker.

    A shard is written aside and appears at once: here by a rename, in an object store by its
    manifest, which is uploaded last.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._remote = is_remote(root)

    def recover(self) -> None:
        """Remove what runs that were killed had begun here."""
        if not self._remote:
            for folder in (Path(self.root), Path(self.root) / "shards"):
                recover(folder)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; None where there is none.

        Raises:
            OutputError: it is damaged.
        """
        try:
            if not self._remote:
                text = (Path(self.root) / name).read_bytes()
            else:
                system, path = file_system(f"{self.root}/{name}")
                with system.open_input_file(path) as file:
                    text = file.read()
        except FileNotFoundError:
            return None
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
            if isinstance(found, dict):
                return found
        raise OutputError(f"{self.root}/{name} is damaged; remove it, or choose another output")

    def write(self, name: str, values: Any) -> None:
        """Write a JSON file, whole or not at all."""
        text = (json.dumps(values) + "\n").encode()
        if not self._remote:
            path = Path(self.root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(text))
            return
        with _create(f"{self.root}/{name}") as file:
            file.write(text)

    def shards(self) -> Iterator[str]:
        """The names of shards that may be there."""
        if not self._remote:
            with suppress(FileNotFoundError):
                names = [path.name for path in (Path(self.root) / "shards").iterdir()]
                yield from sorted(name for name in names if not name.startswith("."))
            return
        from pyarrow import fs

        system, path = file_system(f"{self.root}/shards")
        entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        yield from sorted(entry.base_name for entry in entries)

    @contextmanager
    def aside(self, name: str) -> Iterator[Path]:
        """An empty folder here to write a shard into, gone at the end; see `place`."""
        with tempfile.TemporaryDirectory() if self._remote else self._beside() as above:
            folder = Path(above) / name
            folder.mkdir()
            yield folder

    def _beside(self) -> AbstractContextManager[Path]:
        """A folder to write into on the file system of the shards."""
        shards = Path(self.root) / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        return aside_folder(shards)

    def place(self, folder: Path, name: str) -> None:
        """Let a shard appear; where another worker was sooner with it, that one's stays.

        Raises:
            OutputError: something else is there.
        """
        if self._remote:
            self._upload(folder, f"shards/{name}")
            return
        target = Path(self.root) / "shards" / name
        try:
            settle_tree(folder)
            rename_new(folder, target)
            settle_folder(target.parent)
        except FileExistsError:
            if not (target / MANIFEST).is_file():
                raise OutputError(f"{target} is no shard of mdrt; choose another output") from None

    def _upload(self, folder: Path, name: str) -> None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files.sort(key=lambda path: path == folder / MANIFEST)
        for path in files:
            target = f"{self.root}/{name}/{path.relative_to(folder).as_posix()}"
            with path.open("rb") as read, _create(target) as write:
                shutil.copyfileobj(read, write)


def _create(uri: str) -> BinaryIO:
    """A file of pyarrow's, open for writing, in folders that are made where there are such."""
    system, path = file_system(uri)
    if system.type_name not in _WITHOUT_FOLDERS:
        system.create_dir(path.rpartition("/")[0], recursive=True)
    file: BinaryIO = system.open_output_stream(path)
    return file
