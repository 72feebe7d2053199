"""How many rows a batch may have where memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import DeviceMemoryError

PATIENCE: Final = 16
"""Full batches that must have gone well before more rows are tried again."""
MOST_PATIENCE: Final = 1024
"""The same where trying failed again and again: what it costs is one batch in so many."""


class Rows:
    """Half as many rows when memory does not suffice, and twice as many again when it has sufficed
    for a while: what took it may be gone. Every failure doubles that while.

    for group in rows.groups(count, most):
        with rows.attempt(group):
            outputs = session.infer(…)
        if rows.short:
            continue  # the same rows come again, fewer at a time
    """

    def __init__(self, most: int | None) -> None:
        """`most`: rows that a batch may ever have, None for any number."""
        self.most = self.limit = most
        self.short = False
        """Whether memory did not suffice for the last attempt."""
        self._patience, self._calm, self._failed = PATIENCE, 0, 0

    def groups(self, count: int, most: int) -> Iterator[range]:
        """Ranges that together count to `count`, of at most `most` and the present limit."""
        start = 0
        while start < count:
            group = range(start, min(start + min(most, self.limit or most), count))
            yield group
            if not self.short:
                start = group.stop

    @contextmanager
    def attempt(self, group: range) -> Iterator[None]:
        """A block in which memory may not suffice, the graph's own or what its inputs are put
        together in; for one row that is an error, for more they are tried again, fewer at once."""
        self.short = False
        try:
            yield
        except (DeviceMemoryError, MemoryError):
            if len(group) == 1:
                raise
            self.short = True
            self.failed(len(group))
        else:
            self.sufficed(len(group))

    def failed(self, rows: int) -> None:
        """Memory did not suffice for so many rows, at least two."""
        self.limit, self._failed, self._calm = rows // 2, rows, 0
        self._patience = min(2 * self._patience, MOST_PATIENCE)

    def sufficed(self, rows: int) -> None:
        """A batch of so many rows went well."""
        if self.limit == self.most:
            return
        if rows >= self._failed:
            self._patience = PATIENCE
        self._calm += rows == self.limit  # smaller ones say nothing of larger ones
        if self._calm >= self._patience:
            assert self.limit is not None
            self.limit, self._calm = 2 * self.limit, 0
            if self.most is not None:
                self.limit = min(self.limit, self.most)
