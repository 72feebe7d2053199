"""Many callers: a bounded line, time-outs, callers who go, looks under a budget, a calm end."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from starlette.testclient import TestClient

import mdrt
from mdrt.runtime.serve.app import create_app
from mdrt.runtime.serve.workers import Job, Worker, Workers

from .conftest import SMALL, encoded

ROOT = Path(__file__).parents[2]
MDRT = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()"]
Serve = Callable[..., tuple[TestClient, Workers]]


@contextmanager
def held(workers: Workers, worker: int = 0) -> Iterator[None]:
    """While a worker has a job that does not end."""
    begun, end = threading.Event(), threading.Event()

    def work(_: Worker) -> None:
        begun.set()
        end.wait(20)

    job = Job(work)
    workers.line.put([(job, worker)])
    assert begun.wait(10)
    try:
        yield
    finally:
        end.set()
        job.done.result(10)


def ask(client: TestClient, png: bytes, classes: str = "sky,grass") -> Any:
    return client.post("/v1/segment", files={"image": png}, data={"classes": classes})


def test_a_full_line_says_when_to_come_again(served: Serve, png: bytes) -> None:
    client, workers = served(replace(SMALL, waiting=2))
    with ThreadPoolExecutor(2) as pool, held(workers):
        waiting = [pool.submit(ask, client, png) for _ in range(2)]
        while len(workers.line) < 2:
            time.sleep(0.01)
        assert client.get("/ready").status_code == 503
        got = ask(client, png)
        assert got.status_code == 429
        assert int(got.headers["Retry-After"]) >= 1
        assert "2 pictures wait already" in got.json()["error"]
        many = [("image", png)] * 3
        got = client.post("/v1/segment", files=many, data={"classes": "sky"})
        assert got.status_code == 429  # all of a request or none
        assert len(workers.line) == 2
    assert [job.result().status_code for job in waiting] == [200, 200]
    assert client.get("/ready").status_code == 200


def test_a_request_that_takes_too_long_is_given_up(
    served: Serve, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client, workers = served(replace(SMALL, seconds=0.3))
    with held(workers):
        got = ask(client, png)
        assert got.status_code == 504
        assert "0.3 s" in got.json()["error"]
        assert len(workers.line) == 0  # its place is free
    gc.collect()
    assert caplog.records == []  # nor does asyncio miss anyone who asks for what was given up


def test_work_stops_between_tiles_when_its_caller_is_gone(
    served: Serve, picture: NDArray[np.uint8]
) -> None:
    _, workers = served(replace(SMALL, max_size=4096))
    large = np.tile(picture, (3, 3, 1))
    passes: list[int] = []
    job: Job

    def work(worker: Worker) -> None:
        look = worker.look_at("large", lambda: large, 4096)
        before = look.taps._progress

        def progress(done: int, total: int) -> None:
            passes.append(total)
            workers.stop(job)
            before(done, total)

        look.taps._progress = progress
        look.segment(["sky", "grass"])

    job = Job(work)
    workers.submit([job])
    error = job.done.exception(60)
    assert type(error).__name__ == "Stopped"
    assert len(passes) == 1
    after = Job(lambda worker: worker.segmenter(picture, ["sky", "grass"]).found)
    workers.submit([after])
    assert after.done.result(30)  # the worker goes on


def test_a_caller_who_goes_frees_the_place(served: Serve, png: bytes) -> None:
    """Against uvicorn: the test client keeps no connection to break."""
    _, workers = served()
    config = uvicorn.Config(create_app(workers, hosts=None), port=0, log_level="error")
    with config.bind_socket() as listening:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/segment"
        with held(workers):
            with pytest.raises(httpx2.TimeoutException):
                httpx2.post(url, files={"image": png}, data={"classes": "sky"}, timeout=0.5)
            end = time.monotonic() + 10
            while len(workers.line) and time.monotonic() < end:
                time.sleep(0.02)
            assert len(workers.line) == 0
        server.should_exit = True
        thread.join(20)


def test_workers_compute_side_by_side_and_answer_as_one_does(
    served: Serve, png: bytes, other_png: bytes, segmenter: mdrt.Segmenter
) -> None:
    client, workers = served(count=2, load=lambda: mdrt.Segmenter(threads=1))
    assert workers.every[0].segmenter.network is not workers.every[1].segmenter.network
    lists = ["sky,grass", "water,boat,sky", "tree,road"]
    asked = [(png, names) for names in lists] + [(other_png, names) for names in lists]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda each: ask(client, *each), asked))
    for (picture, names), got in zip(asked, found, strict=True):
        assert got.status_code == 200, got.text
        expected = segmenter(picture, names.split(","), max_size=512).shares
        shares = [entry["share"] for entry in got.json()["classes"]]
        assert np.allclose(shares, expected, atol=2e-3)
    names = [name for worker in workers.every for name in worker.looks._looks]
    for name in names:  # a look is asked where it is
        path = f"/v1/looks/{name}/segment"
        assert client.post(path, json={"classes": ["sky", "grass"]}).status_code == 200


def test_looks_stay_within_their_budget(served: Serve, picture: NDArray[np.uint8]) -> None:
    probe = mdrt.Segmenter().look(picture)
    probe.segment(["sky", "grass"])
    client, workers = served(replace(SMALL, looks=int(2.5 * probe.nbytes)))
    looks = []
    for shift in range(4):
        png = encoded(np.roll(picture, 16 * shift, axis=1))
        looks.append(client.post("/v1/looks", files={"image": png}).json()["look"])
        path = f"/v1/looks/{looks[-1]}/segment"
        assert client.post(path, json={"classes": ["sky", "grass"]}).status_code == 200
        worker = workers.every[0]
        assert worker.looks.nbytes <= worker.looks.most_bytes
    kept = [workers.knows(look) for look in looks]
    assert kept[-1] is True
    assert kept[0] is False
    got = client.post(f"/v1/looks/{looks[0]}/segment", json={"classes": ["sky"]})
    assert got.status_code == 404


def test_a_failure_of_ours_is_no_traceback_and_costs_no_other(
    served: Serve, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = served()

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patched:
        patched.setattr("mdrt.runtime.segmenter.Look.segment", fail)
        got = ask(client, png)
    assert got.status_code == 500
    assert "secret" not in got.text
    assert "Traceback" not in got.text
    assert ask(client, png).status_code == 200


def test_a_model_that_does_not_load_starts_no_server() -> None:
    def load() -> mdrt.Segmenter:
        raise mdrt.BundleError("no such bundle")

    with pytest.raises(mdrt.BundleError):
        Workers(load, 2, SMALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_end_is_calm_and_answers_who_waits(number: signal.Signals, png: bytes) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    serving = subprocess.Popen(
        [*MDRT, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert serving.stderr is not None
        url = ""
        for line in serving.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
                break
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(
                    httpx2.post,
                    f"{url}/v1/segment",
                    files={"image": png},
                    data={
                        "segments": "auto",
                        "head": "spectral",
                        "settings": f'{{"timestep":{n}}}',
                    },
                    timeout=60,
                )
                for n in range(3)
            ]
            end = time.monotonic() + 20
            while time.monotonic() < end:
                waiting = re.search(r"^mdrt_waiting (\S+)", httpx2.get(f"{url}/metrics").text, re.M)
                if waiting and float(waiting[1]) >= 2:
                    break
            serving.send_signal(number)
            assert [each.result().status_code for each in asked] == [200] * 3
        assert serving.wait(20) == 0
        assert "Traceback" not in serving.stderr.read()
    finally:
        serving.kill()


def test_a_port_that_is_taken_is_one_line() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*MDRT, "serve", "--port", port], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: 127.0.0.1:{port} cannot be listened at")
