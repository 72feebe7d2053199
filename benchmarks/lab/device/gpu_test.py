"""Everything that only a GPU can show, in one command on whatever machine has one: `make gpu-test`.

Nothing is installed. What this machine can run is run, each part in a process of its own with a
limit on its time, so that a part that hangs or breaks the GPU's context costs no other; what it
cannot run is named with the reason. A table goes to the terminal, everything to a JSON file that is
written anew after each finding.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Event, Timer
from typing import Any, Final
from xml.etree import ElementTree

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ....runtime.disk.atomic import write_atomically

ROOT: Final = Path(__file__).resolve().parents[3]
TESTS: Final = (
    "tests/kernels/test_cuda.py",
    "tests/engines/test_on_gpu.py",
    "tests/engines/test_torch_session.py",
)
"""The files that hold tests marked `gpu`."""

VERSIONED: Final = (
    "cupy", "cupy-cuda12x", "cupy-cuda13x", "numpy", "torch", "onnx", "onnxruntime",
    "onnxruntime-gpu", "tensorrt", "tensorrt-rtx",
)  # fmt: skip

SANITIZERS: Final = ("memcheck", "racecheck", "initcheck", "synccheck")


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    part: str
    name: str
    verdict: str
    """"passed", "failed", "skipped" or, of a measurement, "measured"."""
    detail: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


Part = Callable[[], Iterator[Finding]]


def machine() -> Iterator[Finding]:
    """What is here: the GPU and the software that could use it."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    tools = [tool for tool in ("nvcc", "compute-sanitizer", "g++") if shutil.which(tool)]
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": found,
        "tools": tools,
        "cores": os.cpu_count(),
    }
    query = "name,driver_version,memory.total,compute_cap"
    try:
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        facts["gpu"] = asked.stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        facts["gpu"] = f"nvidia-smi finds none ({error})"
    try:
        import onnxruntime

        facts["providers"] = onnxruntime.get_available_providers()
    except ImportError:
        facts["providers"] = []
    software = ", ".join(f"{name} {version}" for name, version in found.items())
    yield Finding("machine", "GPU", "measured", facts["gpu"], facts)
    yield Finding("machine", "software", "measured", f"Python {facts['python']}, {software}")
    yield Finding("machine", "tools", "measured", ", ".join([*tools, *facts["providers"]]))


def tests() -> Iterator[Finding]:
    """The tests marked `gpu`, a file at a time: one finding a test that did not pass, one for the
    rest of its file."""
    for file in TESTS:
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [
                sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
                "-o", "junit_family=xunit2", f"--junitxml={report}", file,
            ]  # fmt: skip
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if report.exists():
                yield from _read_report(report)
            else:
                last = (done.stdout + done.stderr).strip().splitlines()[-15:]
                yield Finding("tests", file, "failed", "\n".join(last))


def _read_report(report: Path) -> Iterator[Finding]:
    passed: dict[str, list[float]] = {}
    skipped: dict[tuple[str, str], int] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2] or "collection"
        name = f"{module}: {case.get('name')}"
        broken = [*case.iter("failure"), *case.iter("error")]
        if broken:
            text = (broken[0].get("message") or broken[0].text or "").strip()
            yield Finding("tests", name, "failed", text[:1000], {"trace": broken[0].text or ""})
        elif (skip := case.find("skipped")) is not None:
            reason = (skip.get("message") or "").removeprefix("Skipped: ")
            skipped[module, reason] = skipped.get((module, reason), 0) + 1
        else:
            passed.setdefault(module, []).append(float(case.get("time", 0)))
    for module, seconds in passed.items():
        text = f"{len(seconds)} tests, {sum(seconds):.0f} s, the longest {max(seconds):.0f} s"
        yield Finding("tests", module, "passed", text)
    for (module, reason), number in skipped.items():
        yield Finding("tests", module, "skipped", f"{number} tests: {reason}")


def sanitizer() -> Iterator[Finding]:
    """Every kernel under compute-sanitizer's four tools."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        yield Finding("sanitizer", "compute-sanitizer", "skipped", "it is not installed")
        return
    for name in SANITIZERS:
        command = [
            tool, "--tool", name, "--error-exitcode", "9",
            sys.executable, "-m", "mdrt.benchmarks.lab.device.every_kernel",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = [
            line for line in (done.stdout + done.stderr).splitlines() if line.startswith("===")
        ]
        detail = lines[-1].strip("= ") if lines else (done.stdout + done.stderr)[-500:]
        verdict = "failed" if done.returncode else "passed"
        yield Finding("sanitizer", name, verdict, detail, {"report": lines[:60]})


def heads() -> Iterator[Finding]:
    """What every operation and head costs after the network, beside NumPy and the floors."""
    from ....runtime.sessions.device import open_gpu
    from .costs import costs

    gpu = open_gpu()
    with gpu.active():
        for cost in costs(gpu.xp, gpu.name):
            floor = "" if cost.floor_ms is None else f", floor {cost.floor_ms:.4f}"
            yield Finding(
                "heads",
                f"{cost.case}: {cost.name}",
                "measured" if cost.agrees >= 0.995 and cost.scores_agree >= 0.9999 else "failed",
                f"{cost.gpu_ms:.3f} ms{floor}; NumPy {cost.numpy_ms:,.1f} ms; "
                f"{cost.peak_mb:,.0f} MB; {cost.agrees:.3%} as NumPy's",
                asdict(cost),
            )


def network() -> Iterator[Finding]:
    """A picture through the embedded model's network, by everything here that can run it."""
    from .... import ProviderError, Segmenter
    from ....runtime.sessions.providers import PROVIDERS, resolve_provider
    from ..scenes.renderer import CLASSES, render
    from .stages import measure_pictures

    pictures = [render(seed).image for seed in range(8)]
    expected = [Segmenter()(picture, CLASSES).labels for picture in pictures[:3]]

    def through(name: str, segmenter: Segmenter) -> Iterator[Finding]:
        found = [segmenter(picture, CLASSES).labels for picture in pictures[:3]]
        same = [float((a == b).mean()) for a, b in zip(found, expected, strict=True)]
        stages, whole = measure_pictures(
            segmenter, lambda index: pictures[index % len(pictures)], CLASSES, 30, 5
        )
        shown = ", ".join(f"{stage} {1000 * s:.2f}" for stage, s in stages.items())
        yield Finding(
            "network",
            name,
            "passed" if min(same) > 0.995 else "failed",
            f"{1000 * whole:.1f} ms a picture ({shown}); {min(same):.3%} as on the CPU",
            {"stages_s": stages, "whole_s": whole, "labels_as_on_the_cpu": same},
        )

    for name, provider in PROVIDERS.items():
        if not provider.gpu:
            continue
        try:
            resolve_provider(name)
        except ProviderError as error:
            yield Finding("network", f"ONNX Runtime, {name}", "skipped", str(error))
            continue
        yield from through(f"ONNX Runtime, {name}", Segmenter(provider=name))
    yield from _engines(through)
    yield from _torch(through)


Through = Callable[[str, Any], Iterator[Finding]]


def _engines(through: Through) -> Iterator[Finding]:
    """TensorRT engines of the embedded model, built here."""
    from .... import EngineError, Segmenter
    from ....export.engines.build import build_engines
    from ....export.engines.options import EngineOptions
    from ....export.engines.profiles import parse_profiles
    from ....runtime.bundle.loading import load_bundle
    from ....runtime.bundle.plan import LIBRARIES, installed_version
    from ....runtime.segmenter import EMBEDDED
    from ....runtime.sessions.library import open_library

    for name in LIBRARIES:
        if installed_version(name) is None:
            yield Finding("network", name, "skipped", "it is not installed")
            continue
        with TemporaryDirectory() as folder:
            bundle = shutil.copytree(EMBEDDED, Path(folder) / "bundle")
            options = EngineOptions(profile=parse_profiles(["batch=1:1:4", "size=384"]))
            try:
                build_engines(load_bundle(bundle), open_library(name), options)
            except EngineError as error:
                yield Finding("network", name, "skipped", str(error))
                continue
            for graphs in (True, False):
                how = "with CUDA graphs" if graphs else "without CUDA graphs"
                segmenter = Segmenter(bundle / "unet.plan", cuda_graphs=graphs)
                yield from through(f"{name}, {how}", segmenter)


def _torch(through: Through) -> Iterator[Finding]:
    """The graphs by PyTorch, node by node: where nothing else is, the whole way is seen all the
    same."""
    from functools import partial

    from .... import Segmenter
    from ....runtime.sessions.device import open_gpu

    try:
        import torch

        from .torch_session import TorchSession
    except ImportError as error:
        yield Finding("network", "PyTorch", "skipped", f"{error.name} is not installed")
        return
    if not torch.cuda.is_available():
        yield Finding("network", "PyTorch", "skipped", f"PyTorch {torch.__version__} sees no GPU")
        return
    device = open_gpu()
    segmenter = Segmenter(open_graph=partial(TorchSession, device=device), device=device)
    yield from through("PyTorch, node by node", segmenter)


PARTS: Final[Mapping[str, tuple[Part, int]]] = {
    "machine": (machine, 10),
    "tests": (tests, 120),
    "network": (network, 45),
    "heads": (heads, 75),
    "sanitizer": (sanitizer, 45),
}
"""Each part and the most seconds it may take, under five minutes in all."""


def run_part(name: str, seconds: float) -> Iterator[Finding]:
    """Run one part in a process of its own, which prints a line of JSON a finding; each is given
    as it comes."""
    command = [sys.executable, "-m", __spec__.name, "--part", name]
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that what it started ends with it
        )
        late = Event()

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = Timer(seconds, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"part"'):
                    yield Finding(**json.loads(line))
        finally:
            timer.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        errors.seek(0)
        said = errors.read().strip()[-1500:]
    if late.is_set():
        yield Finding(name, "the rest", "failed", f"not done after {seconds:.0f} s")
    elif status:
        yield Finding(name, "the rest", "failed", f"exit status {status}; {said}")


def findings_table(findings: list[Finding]) -> Table:
    """One row a finding."""
    table = Table("part", "what", "", "detail", title="mdrt on this machine's GPU")
    last = ""
    for finding in findings:
        if finding.part != last and last:
            table.add_section()
        last = finding.part
        first = finding.detail.strip().partition("\n")[0]
        table.add_row(finding.part, escape(finding.name), finding.verdict, escape(first))
    return table


def has_gpu() -> str:
    """Why there is no GPU to test on; empty where there is one."""
    from .... import ProviderError
    from ....runtime.sessions.device import open_gpu

    try:
        open_gpu()
    except ProviderError as error:
        return str(error)
    return ""


def _write(out: Path, findings: list[Finding]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(finding) for finding in findings], indent=1)
    write_atomically(out, lambda file: file.write(f"{text}\n".encode()))


@click.command()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("work/gpu-test.json"),
    show_default=True, help="The findings as JSON.",
)  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Run only this part.")
@click.option("--part", type=click.Choice(list(PARTS)), hidden=True)
def main(out: Path, only: tuple[str, ...], part: str | None) -> None:
    """Test and time on a GPU whatever this machine can run of mdrt; install nothing."""
    if part:
        for finding in PARTS[part][0]():
            click.echo(json.dumps(asdict(finding)))
        return
    began = time.perf_counter()
    findings: list[Finding] = []
    missing = has_gpu()
    for name, (_, seconds) in PARTS.items():
        if only and name not in only:
            continue
        if missing and name != "machine":
            findings.append(Finding(name, "all of it", "skipped", missing))
        else:
            click.echo(f"{name} …", err=True)
            for finding in run_part(name, seconds):
                findings.append(finding)
                _write(out, findings)
        _write(out, findings)
    wide = None if sys.stdout.isatty() else 240
    Console(width=wide).print(findings_table(findings))
    counts = {
        verdict: sum(finding.verdict == verdict for finding in findings)
        for verdict in ("passed", "measured", "failed", "skipped")
    }
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    click.echo(f"{told} in {time.perf_counter() - began:.0f} s; {out} holds the details")
    if counts["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
