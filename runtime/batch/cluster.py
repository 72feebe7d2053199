"""Shards on a Ray cluster: Ray Data gives them to actors that have loaded the model.

What a node that died had in hand is done again by another; a shard appears as a whole and once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from .shards import Job, Outcome, Shard, Worker


class _Actor:
    """A worker as Ray Data calls it: a batch of one row in, one out."""

    def __init__(self, job: Job) -> None:
        self._work = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [self._work(pickle.loads(shard)) for shard in batch["shard"]]
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


def on_ray(
    job: Job, shards: Sequence[Shard], address: str, workers: int, cpus: float, gpus: float
) -> Iterator[Outcome]:
    """The outcomes of shards, in whatever order they come.

    Args:
        job, shards: what is to be done.
        address: of the cluster; "auto" finds it, "local" starts one here.
        workers: how many load the model.
        cpus, gpus: what each takes, fractions too.
    """
    import ray

    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    if hasattr(context, "execution_no_progress_timeout_s"):
        context.execution_no_progress_timeout_s = -1  # a shard may take longer than its half hour
    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        concurrency=min(workers, len(rows)),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in data.iter_rows():
        yield pickle.loads(row["outcome"])
