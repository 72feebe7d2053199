"""The page of claims: verdicts follow from the counts, figures are drawn, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.benchmarks.accuracy.settings import Entry, Setting
from mdrt.benchmarks.accuracy.store import Store
from mdrt.benchmarks.accuracy.sweep import SweepTable, tables
from mdrt.benchmarks.lab.__main__ import main as lab
from mdrt.benchmarks.lab.claims import (
    AGREES,
    CLAIMS,
    DISAGREES,
    OPEN,
    Claim,
    chapter,
    compare,
    summary,
)
from mdrt.benchmarks.metrics import Counts
from mdrt.cli import main
from mdrt.runtime.segmenter import Segmenter

GOOD, BAD, SAME = (Entry(Setting.of("maskdiffusion", timestep=t), "miou") for t in (1, 2, 3))
TABLE = SweepTable("x", "", (("good", GOOD), ("bad", BAD), ("same", SAME)))


META = {
    **{"dataset": "scenes", "split": "val", "classes": [["a"], ["b"]], "bundle": "0" * 64},
    **{"features": [16], "attention": [16]},
}


def counts(right: int) -> Counts:
    """Two classes of a hundred pixels, of each so many right."""
    return np.array([[right, 100 - right, 0], [100 - right, right, 0]])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "results.sqlite", META)
    for i, shift in enumerate(np.random.default_rng(0).integers(-9, 10, 40)):
        good, bad = counts(80 + int(shift)), counts(60 + int(shift))
        same = counts(80 + int(shift) + (1 if i % 2 else -1))
        found.add(f"{i:02}", {GOOD.key: good, BAD.key: bad, SAME.key: same}, {})
    return found


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        (("good", "bad"), AGREES),
        (("bad", "good"), DISAGREES),
        (("good", "same"), OPEN),
    ],
)
def test_a_verdict_follows_from_the_counts(
    store: Store, pair: tuple[str, str], verdict: str
) -> None:
    claim = Claim("x", "Title", "Says.", "x", (pair,), (), "Because.")
    (found,) = compare(store, claim, TABLE)
    assert found.verdict == verdict
    assert found.low <= found.better.miou - found.worse.miou <= found.high
    assert found.high - found.low < 4  # paired: the pictures' own spread, ± 9 pixels, cancels
    page = chapter(claim, [found], "x.png")
    assert verdict in page
    assert ("Because." in page) == (verdict != AGREES)  # a reason only where one is called for


def test_pairs_are_compared_over_the_pictures_of_both(store: Store) -> None:
    """A sweep that went on with a limit has more pictures of some rows than of others."""
    store.add("one more", {GOOD.key: counts(0)}, {})
    claim = Claim("x", "", "", "x", (("good", "bad"),), (), "")
    (found,) = compare(store, claim, TABLE)
    assert found.better.images == found.worse.images == 40
    assert found.verdict == AGREES


def test_pairs_that_were_not_scored_are_left_out(store: Store) -> None:
    claim = Claim("x", "", "", "x", (("good", "absent"),), (), "Why.")
    assert compare(store, claim, TABLE) == []
    assert "Why." in chapter(claim, [], "x.png")


def test_every_claim_names_rows_of_the_sweep() -> None:
    """With all strides, as `make evaluation` exports: the embedded bundle has one."""
    from dataclasses import replace

    manifest = Segmenter().manifest
    features = tuple(replace(manifest.features[0], name=f"f{s}", stride=s) for s in (64, 32, 16))
    every = {t.id: dict(t.rows) for t in tables(replace(manifest, features=features,
             image=replace(manifest.image, size_multiple=64)), 0, 200)}  # fmt: skip
    for claim in CLAIMS:
        named = {label for pair in claim.pairs for label in pair} | set(claim.shown)
        assert named <= every[claim.table].keys(), claim.id
    assert "not testable" in summary({claim.id: [] for claim in CLAIMS})


def test_the_page_is_made_from_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results, out = str(tmp_path / "sweep"), tmp_path / "docs"
    sweep = ["eval", "sweep", "scenes", "--limit", "4", "--train-limit", "2"]
    sweep += ["--timesteps", "0,400", "--out", results]
    assert CliRunner().invoke(main, sweep, catch_exceptions=False).exit_code == 0
    ask = ["claims", results, "--train-limit", "2", "--scenes", "1", "--out", str(out)]
    done = CliRunner().invoke(lab, ask, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = (out / "claims.md").read_text()
    assert "from 4\nheld-out scenes" in page
    for claim in CLAIMS:
        assert f"## {claim.title}" in page
        assert Image.open(out / f"claims/{claim.id}.png").width > 600
    assert "| spectral |" in page
    assert "| spectral | spectral, k found |" in page  # of the sweep, though of no claim


def test_claims_need_a_sweep_of_the_same_bundle(tmp_path: Path) -> None:
    def ask() -> str:
        done = CliRunner().invoke(lab, ["claims", str(tmp_path), "-o", str(tmp_path)])
        assert done.exit_code == 1
        (error,) = (t for t in done.stderr.splitlines() if not t.startswith("Warning: "))
        return str(error)

    assert "does not exist" in ask()
    meta = {"dataset": "scenes", "classes": [["a"]], "bundle": "other", "model": "m"}
    Store(tmp_path / "results.sqlite", meta).close()
    assert "another bundle" in ask()
    (tmp_path / "results.sqlite").unlink()
    own = Segmenter().manifest.sha256
    Store(tmp_path / "results.sqlite", meta | {"bundle": own}).close()
    assert "holds no figures of a sweep" in ask()
    (tmp_path / "results.sqlite").unlink()
    Store(tmp_path / "results.sqlite", meta | {"dataset": "voc20"}).close()
    assert "expected scenes" in ask()
