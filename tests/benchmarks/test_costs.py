"""What `make gpu-test` times after the network: every task runs, on arrays of either kind."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from standins import cupy as device

from mdrt.benchmarks.lab.device import costs

SMALL = costs.Workload(((12, 4, 4), (8, 8, 8)), ((8, 8), (4, 4)), 3, (32, 48), heads=2)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run CUDA on a CPU")
def test_costs_of_arrays_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, device.NAME, device.cupy)
    monkeypatch.setattr(costs, "CASES", {"named": SMALL, "large": SMALL})
    monkeypatch.setattr(costs, "SECONDS", 0.01)
    found = list(costs.costs(device.cupy, "NVIDIA H100 80GB HBM3"))
    assert len(found) == 21
    for cost in found:
        assert cost.gpu_ms > 0 < cost.numpy_ms
        assert cost.agrees > 0.98, cost
        assert cost.scores_agree == 1, cost
    floors = {cost.name for cost in found if cost.floor_ms is not None}
    assert floors == set(costs.STAGES.values())


def test_every_task_runs_and_names_are_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "CASES", {"named": SMALL, "large": SMALL})
    for case, number in (("named", 13), ("large", 4), ("unnamed", 4)):
        tasks = costs._tasks(case, np)
        assert len({name for name, _ in tasks}) == len(tasks) == number
        for _, task in tasks:
            assert all(np.isfinite(part).all() for part in costs._parts(task()))
    names = {name for name, _ in costs._tasks("named", np)}
    assert set(costs.STAGES.values()) <= names


def test_agreement_is_exact_for_labels_and_relative_for_values() -> None:
    labels = np.array([0, 1, 2, 3])
    assert costs._agreement(labels, np.array([0, 1, 2, 2])) == 0.75
    values = np.array([0.0, 1.0, 100.0])
    assert costs._agreement(values + np.array([0, 0.05, 0.2]), values) == pytest.approx(2 / 3)
    assert costs._agreement(labels, labels[:3]) == 0
