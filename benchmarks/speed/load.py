"""A server under load: how many pictures a second, and how long callers wait.

Each client asks, waits for its answer, and asks again: a closed loop, so that a slow server is
asked less often, never more. A caller who is told to come again (429) does so after the time it was
told; the wait counts as his.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from ...runtime.errors import MdrtError

_BOUNDARY: Final = "mdrt-load"
_PATIENCE: Final = 300.0  # seconds that one request may take


@dataclass(frozen=True)
class Load:
    """What so many clients met.

    Attributes:
        clients: at once.
        answered: pictures that have a result.
        refused: times that a client was told to come again.
        lost: requests that had no answer, or another than a result.
        seconds: from the first request to the last answer.
        p50, p99: seconds that a caller waited, the middle and the longest but for one in a hundred.
        memory: bytes that the server held at its most so far.
    """

    clients: int
    answered: int
    refused: int
    lost: int
    seconds: float
    p50: float
    p99: float
    memory: int

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.answered / self.seconds


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`mdrt serve` with these arguments on a free port of this machine: its address and process.

    Raises:
        MdrtError: it does not start, or does not end well.
    """
    command = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()", "serve"]
    process = subprocess.Popen(
        [*command, "--port", "0", *arguments], stderr=subprocess.PIPE, text=True
    )
    told = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told += line
            if found := re.search(r"http://\S+", line) if line.startswith("serving") else None:
                yield found[0], process
                break
        else:
            raise MdrtError(f"the server did not start: {told.strip().splitlines()[-1]}")
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    if status:
        raise MdrtError(f"the server ended with status {status}")


def measure(url: str, process: int, pictures: Sequence[bytes], clients: int, count: int) -> Load:
    """Ask a server for `count` results by so many clients.

    Args:
        url: of it.
        process: its number, for its memory.
        pictures: files, asked about in turn.
        clients: that ask at once.
        count: of requests in all.
    """

    def client(number: int) -> list[tuple[float, int, bool]]:
        return list(_ask(url, pictures, range(number, count, clients)))

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        met = [one for of_client in pool.map(client, range(clients)) for one in of_client]
    seconds = time.perf_counter() - start
    waits = [wait for wait, _, answered in met if answered] or [float("nan")]
    return Load(
        clients,
        sum(answered for _, _, answered in met),
        sum(refused for _, refused, _ in met),
        sum(not answered for _, _, answered in met),
        seconds,
        float(np.quantile(waits, 0.5)),
        float(np.quantile(waits, 0.99)),
        most_memory(process),
    )


def most_memory(process: int) -> int:
    """Bytes that a process of this machine held at its most; 0 where that is not told."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def report(loads: Sequence[Load], arguments: Sequence[str]) -> dict[str, Any]:
    """The loads for machines."""
    return {
        "server": list(arguments),
        "cores": os.cpu_count(),
        "loads": [{**vars(load), "rate": load.rate} for load in loads],
    }


def _body(picture: bytes) -> bytes:
    """A form that asks for the labels of a picture; bytes behind its end, which no reader minds,
    make it one that no look is kept of."""
    picture += os.urandom(16)
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    )
    return head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _ask(url: str, pictures: Sequence[bytes], numbers: range) -> Iterator[tuple[float, int, bool]]:
    """One client's requests: seconds, times it was sent away, and whether there was a result."""
    place = urlsplit(url)
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection = HTTPConnection(place.hostname or "", place.port, timeout=_PATIENCE)
    for number in numbers:
        start, refused, status = time.perf_counter(), 0, 0
        body = _body(pictures[number % len(pictures)])
        try:
            while time.perf_counter() - start < _PATIENCE:
                connection.request("POST", "/v1/segment?format=png", body, headers)
                response = connection.getresponse()
                status, data = response.status, response.read()
                if status != 429:
                    break
                refused += 1
                connection.close()  # the server would, before he comes again
                time.sleep(float(response.headers.get("Retry-After", 1)))
        except OSError:
            connection.close()  # the next request opens it anew
            status, data = 0, b""
        answered = status == 200 and data.startswith(b"\x89PNG")
        yield time.perf_counter() - start, refused, answered
    connection.close()
