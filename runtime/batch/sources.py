"""The pictures of a batch, wherever they lie: folders, globs, lists, tars, Parquet, object stores.

An item is small and says where its picture is; it is read where it is worked on.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from ..errors import ImageError, MdrtError

KINDS: Final = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_GLOB: Final = frozenset("*?[")


@dataclass(frozen=True)
class Item:
    """A picture.

    Attributes:
        name: its path in the input, which no other has.
        where: the file it is in: its own, a tar or a Parquet file.
        part: of a tar the first byte and the number of bytes, of Parquet row group and row.
        column: of Parquet.
    """

    name: str
    where: str
    part: tuple[int, int] | None = None
    column: str | None = None


def find_items(source: str, column: str = "image") -> Iterator[Item]:
    """The pictures of a source, always in the same order.

    Args:
        source: a folder, which is gone through with its folders; a picture; a glob; a text file
            with a path a line; a WebDataset tar; a Parquet file; or a URI of one of these that
            pyarrow knows, as s3:// or gs://. A folder or a glob may hold tars and Parquet files.
        column: of Parquet files: bytes of pictures, or structs of them as Hugging Face's.

    Raises:
        MdrtError: there is nothing, or it holds no picture.
    """
    found = False
    for name, where in _files(source):
        for item in _items(name, where, column):
            found = True
            yield item
    if not found:
        raise MdrtError(f"{source} holds no picture ({', '.join(sorted(KINDS))}), tar or Parquet")


def read_item(item: Item) -> Path | bytes:
    """A picture's path where it is a file of its own here, else its bytes.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        if item.column is not None and item.part is not None:
            value = _row_group(item.where, item.part[0], item.column)[item.part[1]].as_py()
            value = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(value, bytes):
                raise ImageError(f"image {item.name} is {type(value).__name__}, expected bytes")
            return value
        if item.part is not None:
            with _open(item.where) as file:
                file.seek(item.part[0])
                return file.read(item.part[1])
        if is_remote(item.where):
            with _open(item.where) as file:
                return file.read()
    except OSError as error:
        raise ImageError(f"image {item.name} cannot be read: {error}") from error
    return Path(item.where)


def is_remote(path: str) -> bool:
    """Whether a path is a URI, which pyarrow opens."""
    return "://" in path


def file_system(uri: str) -> tuple[Any, str]:
    """pyarrow's file system of a URI, and the path in it.

    Raises:
        MdrtError: pyarrow knows none such.
    """
    from pyarrow import fs

    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(uri)
    except Exception as error:  # pyarrow's own kinds, ValueError, OSError
        raise MdrtError(f"{uri} cannot be opened: {error}") from error
    return found


def _files(source: str) -> Iterator[tuple[str, str]]:
    """Files by name and place: of a folder, of a glob, of a list, or one alone."""
    if source.endswith(".txt") and not is_remote(source):
        for line in _lines(Path(source)):
            yield line, line
        return
    pattern = _GLOB & set(source)
    root = source
    while _GLOB & set(root):
        root = root.rpartition("/")[0] or "."
    for name, where in _remote_tree(root) if is_remote(root) else _local_tree(Path(root)):
        if not pattern or fnmatchcase(where, source):
            yield name, where


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MdrtError(f"list {path} cannot be read: {error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _local_tree(root: Path) -> Iterator[tuple[str, str]]:
    if root.is_file():
        yield root.name, str(root)
        return
    if not root.is_dir():
        raise MdrtError(f"{root} does not exist; give a folder, a glob, a list or a file")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), str(path)


def _remote_tree(root: str) -> Iterator[tuple[str, str]]:
    from pyarrow import fs

    system, path = file_system(root)
    scheme = root.partition("://")[0]
    if system.get_file_info(path).type == fs.FileType.File:
        yield PurePosixPath(path).name, root
        return
    base = root.rstrip("/")
    for entry in sorted(
        system.get_file_info(fs.FileSelector(path, recursive=True)), key=lambda one: one.path
    ):
        if entry.type == fs.FileType.File:
            name = entry.path.removeprefix(path.rstrip("/")).lstrip("/")
            yield name, f"{base}/{name}" if scheme else entry.path


def _items(name: str, where: str, column: str) -> Iterator[Item]:
    """The pictures of one file."""
    kind = PurePosixPath(name).suffix.lower()
    if kind in KINDS:
        yield Item(name, where)
    elif kind == ".tar":
        with _open(where) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in KINDS:
                    yield Item(f"{name}/{member.name}", where, (member.offset_data, member.size))
    elif kind == ".parquet":
        yield from _rows(name, where, column)


def _rows(name: str, where: str, column: str) -> Iterator[Item]:
    from pyarrow import parquet

    with _open(where) as file:
        table = parquet.ParquetFile(file)
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise MdrtError(f"{where} has no column {column}; it has {names}", column=...)
        rows = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    number = 0
    for group, count in enumerate(rows):
        for row in range(count):
            yield Item(f"{name}/{number:08d}.jpg", where, (group, row), column)
            number += 1


@lru_cache(maxsize=1)
def _row_group(where: str, group: int, column: str) -> Any:
    """A column of a row group: pictures next to one another are read at once."""
    from pyarrow import parquet

    with _open(where) as file:
        return parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(0)


def _open(where: str) -> BinaryIO:
    if not is_remote(where):
        return Path(where).open("rb")
    system, path = file_system(where)
    file: BinaryIO = system.open_input_file(path)
    return file
