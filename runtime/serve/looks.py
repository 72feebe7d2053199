"""A worker's looks by their handles, under a budget of bytes; what was used longest ago goes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from ..segmenter import Look


def handle(picture: bytes, max_size: int) -> str:
    """What a look is asked for by: a digest of the picture's file and of how it is seen."""
    return hashlib.sha256(b"%d " % max_size + picture).hexdigest()[:32]


class Looks:
    """Looks of one segmenter. Not for several threads."""

    def __init__(self, most_bytes: int, gone: Callable[[str], None]) -> None:
        """`gone` is told the handle of each look that is let go."""
        self.most_bytes, self._gone = most_bytes, gone
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self.nbytes = 0
        """Of all looks, when they were last counted."""

    def __len__(self) -> int:
        return len(self._looks)

    def get(self, name: str) -> Look | None:
        """The look, now the last one used; None if it is not kept."""
        if name in self._looks:
            self._looks.move_to_end(name)
        return self._looks.get(name)

    def put(self, name: str, look: Look) -> None:
        """Keep a look."""
        self._looks[name] = look

    def drop(self, name: str) -> bool:
        """Let a look go; whether there was one."""
        look = self._looks.pop(name, None)
        if look is not None:
            look.release()
            self._gone(name)
        return look is not None

    def trim(self) -> None:
        """Let go what the budget does not hold; looks grow as they are asked."""
        self.nbytes = sum(look.nbytes for look in self._looks.values())
        while self._looks and self.nbytes > self.most_bytes:
            oldest = next(iter(self._looks))
            self.nbytes -= self._looks[oldest].nbytes
            self.drop(oldest)
