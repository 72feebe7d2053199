"""Keep both ends of the pipeline busy: read ahead, work, finish behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Finished = TypeVar("Finished")


def ahead(
    items: Iterable[Item], read: Callable[[Item], Read]
) -> Iterator[tuple[Item, Future[Read]]]:
    """Every item with `read` of it, which a thread of its own began one item early."""
    with ThreadPoolExecutor(1, "reader") as reader:
        coming: list[tuple[Item, Future[Read]]] = []
        for item in items:
            coming.append((item, reader.submit(read, item)))
            if len(coming) == 2:
                yield coming.pop(0)
        yield from coming


def overlap(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    finish: Callable[[Item, Worked | Exception], Finished],
) -> list[Finished]:
    """`finish(item, work(item, read(item)))` of every item, in order.

    While one item is worked on, in the calling thread, the next is read and the last is finished,
    each in a thread of its own; so no more than three are held. What `read` or `work` raises goes
    to `finish` in the place of the result; what `finish` raises ends it all.
    """
    finished: list[Future[Finished]] = []
    with ThreadPoolExecutor(1, "writer") as writer:
        for item, arrived in ahead(items, read):
            outcome: Worked | Exception
            try:
                outcome = work(item, arrived.result())
            except Exception as error:
                outcome = error
            if finished:
                finished[-1].result()
            finished.append(writer.submit(finish, item, outcome))
        # here, so that an interrupt while it waits lets the last be finished too
        return [future.result() for future in finished]
