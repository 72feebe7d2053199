"""`attack`: the campaign from the command line, and its figures."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import numpy as np

from ....runtime.errors import MdrtError
from .guided import PARSERS, guided, installed
from .kills import Finding, Scenario, interrupt_everywhere, kill_everywhere, scenarios, torn
from .parsers import Parser, attack, careless, parsers, pictures
from .requests import requests
from .sanitizers import CONTROL, SETS, passed, run_tests, sanitized
from .shim import NO_MEMORY, SURPRISED, built, in_child

_ARMED: Final = "MDRT_ATTACK"
"""Set in the process that has the shim before the C library."""


@click.command()
@click.option("--runs", default=2000, show_default=True, help="Mutated inputs of each parser.")
@click.option(
    "--every",
    default=1,
    show_default=True,
    help="Kills, signals and a full disk at every so-many-th call of every writer; 0 for none.",
)
@click.option("--starved", default=40, show_default=True, help="Pictures with failing allocations.")
@click.option("--calls", default=1000, show_default=True, help="Calls of the soak.")
@click.option("--guided", default=0, help="Inputs that coverage guides, of each parser in Python.")
@click.option("--sanitizers/--no-sanitizers", default=True, help="Of the operators for CPUs.")
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for inputs that crash.")
def main(
    runs: int,
    every: int,
    starved: int,
    calls: int,
    guided: int,
    sanitizers: bool,
    seed: int,
    keep: Path | None,
) -> None:
    """Attack mdrt: mutated inputs, kills, signals, clocks, full disks, failing allocations, a soak,
    sanitizers.

    Exit status 1 where anything but the allowed errors was seen, or where the controls, three
    careless programs, were not caught.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if _ARMED not in os.environ:
            # the shim must stand before the C library from the beginning
            os.environ |= {
                "LD_PRELOAD": str(built(folder)),
                _ARMED: "1",
                "PYTHONWARNINGS": "ignore",
            }
            status = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *_again()])
            raise SystemExit(status)
        report = Campaign(folder, np.random.default_rng(seed), keep)
        report.mutated(runs)
        report.guided(guided)
        report.killed(every)
        report.starved(starved)
        report.soaked(calls)
        if sanitizers:
            report.sanitized()
    click.echo(json.dumps(report.figures, indent=2))
    if report.findings:
        raise click.ClickException(f"{len(report.findings)} findings, above")


def _again() -> list[str]:
    return ["-P", "-m", "mdrt.benchmarks.lab", *sys.argv[1:]]


class Campaign:
    """One campaign under way: its figures and what it found."""

    def __init__(self, folder: Path, random: np.random.Generator, keep: Path | None) -> None:
        self.folder, self.random, self.keep = folder, random, keep
        self.figures: dict[str, object] = {}
        self.findings: list[str] = []

    def mutated(self, runs: int) -> None:
        """Mutated inputs for every parser, and for the control."""
        with self._timed("inputs"):
            counts = {}
            for parser in parsers(self.folder):
                counts[parser.name] = self._attacked(parser, runs)
            with requests() as server:
                counts[server.name] = self._attacked(server, runs)
            self.figures["inputs"] = counts
            if not any(attack(careless(), max(200, runs // 10), self.random)):
                self._found("the careless reader was not caught")

    def guided(self, runs: int) -> None:
        """Inputs that coverage guides, where atheris is installed."""
        if not installed():
            self.figures["guided"] = "not run: atheris is not installed"
        if not runs or not installed():
            return
        with self._timed("guided"):
            counts = {}
            for parser in parsers(self.folder):
                if parser.name in PARSERS:
                    with tempfile.TemporaryDirectory(dir=self.folder) as place:
                        counts[parser.name], crash = guided(parser, runs, Path(place))
                    if crash:
                        self._found(f"{parser.name}, guided: {crash}")
            self.figures["guided"] = counts

    def _attacked(self, parser: Parser, runs: int) -> int:
        click.echo(f"{parser.name}: {runs} inputs", err=True)
        for crash in attack(parser, runs, self.random):
            self._found(f"{crash.parser}: {crash.error}")
            if self.keep is not None:
                self.keep.mkdir(parents=True, exist_ok=True)
                name = f"{crash.parser.replace(' ', '-')}-{abs(hash(crash.content)):x}"
                (self.keep / name).write_bytes(crash.content)
        return runs

    def killed(self, step: int) -> None:
        """Kills, full disks, signals and clocks for every writer, and for the control."""
        with self._timed("kills"):
            place = self.folder / "kills"
            place.mkdir()
            kills: dict[str, int] = {}
            signals = 0
            for scenario in scenarios() if step else ():
                first = int(self.random.integers(1, step, endpoint=True))
                click.echo(f"{scenario.name}: killed at call {first} and so on", err=True)
                kills[scenario.name] = self._faults(kill_everywhere, scenario, place, step, first)
                signals += self._faults(interrupt_everywhere, scenario, place, step, first)
            self.figures["kills"] = kills | {"in all": sum(kills.values())}
            self.figures["signals"] = signals
            try:
                kill_everywhere(torn(), place)
            except Finding:
                return
            self._found("the careless writer was not caught")

    def _faults(self, attack: Callable[..., int], scenario: Scenario, *where: object) -> int:
        try:
            return attack(scenario, *where)
        except Finding as finding:
            self._found(str(finding))
            return 1

    def starved(self, count: int) -> None:
        """One allocation in 16 fails, where they are of 4 KiB or more; another in 64, in 256, …"""
        from ....runtime.pictures.images import read_image

        seeds = pictures()

        def read() -> None:
            for content in seeds:
                read_image(content)

        with self._timed("starved"):
            for number in range(count):
                status, _ = in_child(NO_MEMORY, 16 * 4 ** (number % 3), read)
                if status == SURPRISED or status < 0:
                    self._found(f"failing allocations: status {status}")
            self.figures["starved"] = count

    def soaked(self, calls: int) -> None:
        """The same call again and again: what the process holds must not grow."""
        from ....runtime.segmenter import Segmenter

        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        names = [["sky", "sea"], ["tree"], ["house", "sand", "sky"]]

        def work(segmenter: Segmenter, count: int) -> None:
            for number in range(count):
                try:
                    segmenter(picture, [*names[number % 3], f"word {number % 50}"])
                except MdrtError:
                    self._found("a call of the soak failed")

        if not calls:
            return
        with self._timed("soak"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmenter = Segmenter(threads=1)
            work(segmenter, min(calls, 100))
            before = _held()
            for done in range(0, calls, 1000):
                work(segmenter, some := min(1000, calls - done))
                grown = _held() - before
                click.echo(f"soak: {done + some:,} calls, {grown / 2**20:.1f} MiB more", err=True)
            self.figures["soak"] = {"calls": calls, "grown MiB": round(grown / 2**20, 1)}
            if grown > 16 << 20:
                self._found(f"{calls} calls grew the process by {grown >> 20} MiB")

    def sanitized(self) -> None:
        """The operators' tests on every instruction set, and on an operator without a bound."""
        with self._timed("sanitizers"):
            (self.folder / "operators").mkdir()
            library = sanitized(self.folder / "operators")
            counts = {}
            for name in SETS:
                done = run_tests(library, name)
                counts[name] = passed(done)
                if done.returncode != 0:
                    self._found(f"operators on {name}:\n{(done.stdout + done.stderr)[-4000:]}")
            self.figures["sanitizers"] = counts
            (self.folder / "control").mkdir()
            control = run_tests(sanitized(self.folder / "control", **CONTROL), selection="gates")
            if "heap-buffer-overflow" not in control.stdout + control.stderr:
                self._found("the operator without a bound was not caught")

    def _found(self, text: str) -> None:
        self.findings.append(text)
        click.echo(f"finding: {text}", err=True)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.figures[f"{name} seconds"] = round(time.perf_counter() - start, 1)
        click.echo(f"{name}: {self.figures[f'{name} seconds']} s", err=True)


def _held() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
