"""A training run's work folder: what it was asked for, its log, its checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from ....runtime.disk.atomic import write_atomically
from .recipes import Recipe


def save(path: Path, state: object) -> None:
    """A kill never leaves half a checkpoint."""
    write_atomically(path, lambda file: torch.save(state, file))


class Checkpoint:
    """A stage's state, written every few minutes and read back by the next run."""

    def __init__(self, path: Path, minutes: float, **parts: Any) -> None:
        """`parts` are modules, optimisers and schedules: whatever has a state dict."""
        self.path, self.minutes, self.parts = path, minutes, parts
        self.begun = self.saved = time.monotonic()

    def resume(self) -> int:
        """Put the saved state into the parts; returns the step to go on from."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.begun -= state["seconds"]
        step: int = state["step"]
        return step

    def seconds(self) -> float:
        """How long the stage has run, in this run and those it continues."""
        return time.monotonic() - self.begun

    def keep(self, step: int) -> bool:
        """Save after `step`, if the last time is long enough ago; whether it was."""
        if time.monotonic() - self.saved < self.minutes * 60:
            return False
        state = {name: part.state_dict() for name, part in self.parts.items()}
        save(self.path, state | {"step": step + 1, "seconds": self.seconds()})
        self.saved = time.monotonic()
        return True


def log(work: Path, **row: Any) -> None:
    row = {"time": round(time.time(), 1)} | row
    with (work / "log.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def claim(work: Path, recipe: Recipe) -> None:
    """Bind a work folder to its recipe: what a `--quick` run left is no start for a whole one."""
    work.mkdir(parents=True, exist_ok=True)
    kept, asked = work / "recipe.json", json.dumps(asdict(recipe), indent=2)
    if not kept.exists():
        write_atomically(kept, lambda file: file.write(asked.encode()))
    elif kept.read_text() != asked:
        raise click.UsageError(
            f"{work} holds a run with other settings ({kept.name}); "
            "delete the folder or name another with --work"
        )
