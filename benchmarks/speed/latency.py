"""Run contenders side by side: rounds of fresh processes, one contender after the other."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from .contenders import PYTORCH
from .task import STAGES, Task

Report = dict[str, Any]

_VERSIONED: Final = (
    "mdrt", "numpy", "onnxruntime", "torch", "diffusers", "transformers", "openvino", "mnn",
)  # fmt: skip


def race(
    task: Task,
    contenders: Sequence[str],
    *,
    rounds: int = 2,
    pictures: int = 2,
    warmup: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Time every contender on the same pictures.

    In each round every contender gets a fresh process, warms up with `warmup` pictures, then
    segments `pictures` that count; so none profits from the hour, and peak memory is its own.
    Those on PyTorch, which take minutes, segment one picture in the first round alone.

    Returns:
        A plain dict: machine, versions, task, and for every contender medians a stage, p50 and
        p95 of the whole, seconds to load and from the process's start to its first label map,
        peak bytes, and agreement with the first contender's labels of the pixels; for one that
        failed, why.

    Raises:
        RuntimeError: the first contender failed; the message holds its last words.
    """
    events: dict[str, list[Report]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            for name in contenders:
                minutes = name in PYTORCH
                if name in failed or (turn and minutes):
                    continue
                say(f"round {turn + 1} of {rounds}: {name}")
                try:
                    events[name] += contend(
                        task, name, Path(scratch), 1 if minutes else pictures, warmup
                    )
                except RuntimeError as error:
                    if name == contenders[0]:
                        raise
                    failed[name] = str(error)
                    del events[name]
        agreement = {
            name: _agreement(Path(scratch), contenders[0], Path(name).name, pictures)
            for name in events
        }
    results = {Path(name).name: summary(found) for name, found in events.items()}
    for name, share in agreement.items():
        results[Path(name).name][f"agreement with {contenders[0]}"] = share
    return {
        "task": task.to_dict(),
        "rounds": rounds,
        "pictures": pictures,
        "warmup": warmup,
        "machine": machine(),
        "versions": versions(),
        "contenders": results,
        "failed": failed,
    }


def contend(task: Task, name: str, folder: Path, pictures: int, warmup: int) -> list[Report]:
    """Run one contender in a process of its own; what it said.

    Raises:
        RuntimeError: it failed; the message holds its last words.
    """
    module = f"{__package__}.contenders"
    numbers = (pictures, warmup, time.time())
    command = [sys.executable, "-P", "-m", module, name, str(folder), *map(str, numbers)]
    done = subprocess.run(command, input=json.dumps(task.to_dict()), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(f"{name} failed: {lines[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def summary(events: Sequence[Report]) -> Report:
    """What a contender said in all rounds: medians of what counted, and the most memory."""
    counted = [event for event in events if event["event"] == "picture"]
    first = [event["since_start"] for event in events if event.get("first")]
    wholes = sorted(event["whole"] for event in counted)
    stages = {
        stage: statistics.median(event["stages"].get(stage, 0.0) for event in counted)
        for stage in STAGES
        if any(stage in event["stages"] for event in counted)
    }
    return {
        "load_s": statistics.median(e["seconds"] for e in events if e["event"] == "loaded"),
        "first_s": statistics.median(first) if first else None,
        "p50_s": statistics.median(wholes),
        "p95_s": float(np.percentile(wholes, 95)),
        "stages_s": stages,
        "peak_bytes": max(e["peak_bytes"] for e in events if e["event"] == "done"),
    }


def _agreement(folder: Path, first: str, other: str, pictures: int) -> float:
    """Share of the pixels of the pictures that both segmented to which they give the same label."""
    pairs = [[folder / f"{name}-{i}.png" for name in (first, other)] for i in range(pictures)]
    same = [
        np.asarray(Image.open(ours)) == np.asarray(Image.open(theirs))
        for ours, theirs in pairs
        if theirs.exists()
    ]
    return float(np.mean(same))


def machine() -> Report:
    """Processor, cores, memory: what a figure is worth nothing without."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "cores": os.cpu_count(), "memory_bytes": memory,
            "system": platform.platform(terse=True), "load": os.getloadavg()[0]}  # fmt: skip


def versions() -> dict[str, str]:
    """Of the packages that take part, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
