"""Label Studio's own server, started from its package, has its tasks pre-annotated.

python -m venv studio && studio/bin/pip install label-studio
LABEL_STUDIO=studio/bin/label-studio pytest -m extras tests/serve/test_real_label_studio.py
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import pytest

import mdrt

MDRT: Final = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()"]
STUDIO: Final = os.environ.get("LABEL_STUDIO", "")
TOKEN: Final = "0123456789abcdef0123456789abcdef01234567"

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(not STUDIO, reason="LABEL_STUDIO names no label-studio to start"),
]

CONFIG: Final = """<View>
  <Image name="picture" value="$image"/>
  <BrushLabels name="brush" toName="picture" mdrt_settings='{"refine": "none"}'>
    <Label value="Above" predicted_values="sky, cloud"/>
    <Label value="grass"/>
    <Label value="tree"/>
  </BrushLabels>
</View>"""

DECODE: Final = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle
regions = json.load(sys.stdin)
print(json.dumps([decode_rle(region["value"]["rle"])[3::4].tolist() for region in regions]))
"""


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Label Studio with one user."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("studio")
    command = [STUDIO, "start", "--no-browser", "--port", str(port)]
    command += ["--username", "a@example.org", "--password", "mdrt-mdrt", "--user-token", TOKEN]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        command,
        env={
            **os.environ,
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "USE_DEFAULT_BANNED_SUBNETS": "false",  # the model is on this machine
            "COLLECT_ANALYTICS": "0",
            "LATEST_VERSION_CHECK": "0",
        },
        stdout=log,
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 900  # its first start makes its database
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "Label Studio does not start"
            try:
                if httpx2.get(f"{url}/health", timeout=5).is_success:
                    break
            except httpx2.TransportError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@pytest.fixture(params=["legacy", "personal"])
def key(request: pytest.FixtureRequest, studio: str) -> str:
    """Either kind of token."""
    if request.param == "legacy":
        return TOKEN
    got = httpx2.post(f"{studio}/api/token", headers={"Authorization": f"Token {TOKEN}"})
    return str(got.json()["token"])


def test_tasks_are_pre_annotated(studio: str, key: str, picture_file: Path) -> None:
    with running(
        [*MDRT, "serve", "--port", "0", "--label-studio", studio], LABEL_STUDIO_API_KEY=key
    ) as serving:
        assert serving.stderr is not None
        backend = ""
        for line in serving.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                backend = found[0]
                break
        with httpx2.Client(
            base_url=studio, headers={"Authorization": f"Token {TOKEN}"}, timeout=60
        ) as client:

            def call(method: str, path: str, **request: Any) -> Any:
                got = client.request(method, path, **request)
                assert got.is_success, f"{path}: {got.status_code} {got.text[:500]}"
                return got.json() if got.content else None

            project = call(
                "POST", "/api/projects", json={"title": "mdrt test", "label_config": CONFIG}
            )
            number = project["id"]
            with picture_file.open("rb") as file:
                call("POST", f"/api/projects/{number}/import", files={"file": ("s.png", file)})
            call("POST", "/api/ml", json={"url": backend, "project": number, "title": "mdrt"})
            end = time.monotonic() + 60
            while True:  # the import goes on behind its answer
                tasks = call("GET", "/api/tasks", params={"project": number})["tasks"]
                if tasks or time.monotonic() > end:
                    break
                time.sleep(0.5)
            call(
                "POST",
                f"/api/dm/actions?id=retrieve_tasks_predictions&project={number}",
                json={"selectedItems": {"all": True, "excluded": []}},
            )
            (prediction,) = call("GET", "/api/predictions", params={"task": tasks[0]["id"]})
    segmenter = mdrt.Segmenter()
    names = [("sky", "cloud"), "grass", "tree"]
    expected = segmenter(picture_file, names, max_size=1024, refine="none")
    assert prediction["model_version"].startswith(segmenter.manifest.model_id)
    regions = prediction["result"]
    shown = {"Above": 0, "grass": 1, "tree": 2}
    assert {region["from_name"] for region in regions} == {"brush"}
    assert {region["to_name"] for region in regions} == {"picture"}
    decoded = subprocess.run(
        [Path(STUDIO).with_name("python"), "-c", DECODE],
        input=json.dumps(regions),
        capture_output=True,
        text=True,
        check=True,
    )
    height, width = expected.labels.shape
    found = np.full(expected.labels.shape, 255)
    for region, mask in zip(regions, json.loads(decoded.stdout), strict=True):
        assert (region["original_height"], region["original_width"]) == (height, width)
        (label,) = region["value"]["brushlabels"]
        found[np.reshape(mask, (height, width)) > 0] = shown[label]
    assert (found == expected.labels).all()
