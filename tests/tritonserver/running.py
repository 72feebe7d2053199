"""A real Triton server, where the wheel that carries one is installed (`make triton-test`)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 90
"""Seconds that a server has to load its models."""


@dataclass(frozen=True)
class Server:
    http: str
    grpc: str
    log: Path


def missing() -> str:
    """Why there is no server; "" where there is one."""
    for module, package in (("pytriton", "nvidia-pytriton"), ("tritonclient", "tritonclient[all]")):
        if find_spec(module) is None:
            return f"{package} is not installed; `make triton-test` installs it and runs this"
    return ""


needs_server = pytest.mark.skipif(bool(missing()), reason=missing())


@contextmanager
def serving(repository: Path, folder: Path, models: list[str]) -> Iterator[Server]:
    """A server over a repository, its models loaded; it is ended with the block."""
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    wheel = Path(spec.submodule_search_locations[0])
    backend = folder / "backends" / "python"
    shutil.copytree(wheel / "tritonserver" / "backends" / "python", backend)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backend)
    http, grpc = _free_ports()
    libraries = [wheel.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), sysconfig.get_path("purelib")]),
        # the server's Python takes its packages from the environment of the first one there
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = [
        str(wheel / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backend.parent}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
    ]
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        _wait(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
        yield Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')[-4000:]}")


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for opened in (one, other):
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in (one, other)]
