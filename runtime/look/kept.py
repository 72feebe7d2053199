"""What was computed once, kept under a budget of bytes; what was used longest ago gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any


class Kept:
    """Values by key; the newest stays, whatever it takes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:
        """The value, now the last one used; None if there is none."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value, and let others go that the budget does not hold beside it."""
        self._values[key] = value
        while len(self._values) > 1 and self.nbytes > self.most_bytes:
            self._values.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that are kept."""
        return sum(map(nbytes, self._values.values()))

    def clear(self) -> None:
        """Let everything go."""
        self._values.clear()


def nbytes(value: Any) -> int:
    """Bytes of the arrays in a value: an array, or a sequence or dataclass of them."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if is_dataclass(value):
        return sum(nbytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Iterable) and not isinstance(value, str):
        return sum(map(nbytes, value))
    return 0
