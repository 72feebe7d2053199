"""`make gpu-test` where no GPU is, and what it makes of parts that fail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mdrt.benchmarks.lab.device import gpu_test
from mdrt.benchmarks.lab.device.gpu_test import PARTS, Finding, main
from mdrt.runtime.errors import ProviderError
from mdrt.runtime.sessions.device import open_gpu


@pytest.fixture
def no_gpu() -> None:
    try:
        open_gpu()
    except ProviderError:
        return
    pytest.skip("a GPU is here")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_every_part_is_skipped_by_name(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "found.json"
    done = CliRunner().invoke(main, ["--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"{len(PARTS) - 1} skipped" in done.output
    assert "[gpu]" in done.output or "cupy" in done.output.lower()
    found = [Finding(**row) for row in json.loads(out.read_text())]
    assert {finding.part for finding in found} == {"machine", *PARTS}
    assert {f.verdict for f in found if f.part != "machine"} == {"skipped"}


REPORT = """<testsuites><testsuite>
<testcase classname="tests.kernels.test_cuda" name="test_a[cupy]"/>
<testcase classname="tests.kernels.test_cuda" name="test_b[cupy]">
  <failure message="assert 1 == 2">the trace</failure></testcase>
<testcase classname="tests.engines.test_on_gpu" name="test_c">
  <skipped message="tensorrt is not installed"/></testcase>
<testcase classname="" name="tests.engines.test_torch_session">
  <error message="collection failure">no module</error></testcase>
</testsuite></testsuites>"""


def test_pytest_s_report_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    found = list(gpu_test._read_report(path))
    assert [(f.name, f.verdict, f.detail) for f in found] == [
        ("test_cuda: test_b[cupy]", "failed", "assert 1 == 2"),
        ("collection: tests.engines.test_torch_session", "failed", "collection failure"),
        ("test_cuda", "passed", "1 tests, 0 s, the longest 0 s"),
        ("test_on_gpu", "skipped", "1 tests: tensorrt is not installed"),
    ]


def test_a_part_that_dies_or_hangs_is_a_failure_and_keeps_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "part.py"
    monkeypatch.setattr(gpu_test.__spec__, "name", "part")
    monkeypatch.setattr(gpu_test, "ROOT", tmp_path)
    first = '{"part": "tests", "name": "one", "verdict": "passed"}'
    for after, said in (
        ("import os; os.abort()", "exit status -6"),
        ("sys.exit('no such kernel')", "no such kernel"),
        ("import time; time.sleep(60)", "not done after 5 s"),
    ):
        program.write_text(f"import sys\nprint('{first}', flush=True)\n{after}\n")
        kept, failed = gpu_test.run_part("tests", 5)
        assert kept == Finding("tests", "one", "passed")
        assert failed.verdict == "failed"
        assert said in failed.detail


def test_what_a_late_part_started_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else it would run beside what is timed next."""
    monkeypatch.setattr(gpu_test.__spec__, "name", "part")
    monkeypatch.setattr(gpu_test, "ROOT", tmp_path)
    (tmp_path / "part.py").write_text(
        "import pathlib, subprocess, time\n"
        "started = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path('pid').write_text(str(started.pid))\n"
        "time.sleep(60)\n"
    )
    assert [finding.verdict for finding in gpu_test.run_part("tests", 3)] == ["failed"]
    process = Path("/proc", (tmp_path / "pid").read_text())
    for _ in range(50):
        if not process.exists() or "Z" in (process / "stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_a_failure_is_told_by_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def part() -> Iterator[Finding]:
        yield Finding("heads", "one", "failed", "NaN")

    monkeypatch.setattr(gpu_test, "has_gpu", lambda: "")
    monkeypatch.setattr(gpu_test, "run_part", lambda name, seconds: list(part()))
    done = CliRunner().invoke(main, ["--only", "heads", "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 1
    assert "1 failed" in done.output
