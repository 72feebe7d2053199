"""Keep both ends of the pipeline busy: read ahead, work, finish behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Finished = TypeVar("Finished")


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
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        coming = [reader.submit(read, item) for item in items[:1]]
        for number, item in enumerate(items):
            arrived = coming.pop()
            coming += [reader.submit(read, later) for later in items[number + 1 : number + 2]]
            outcome: Worked | Exception
            try:
                outcome = work(item, arrived.result())
            except Exception as error:
                outcome = error
            if finished:
                finished[-1].result()
            finished.append(writer.submit(finish, item, outcome))
    return [future.result() for future in finished]
