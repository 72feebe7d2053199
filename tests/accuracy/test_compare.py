"""`mdrt eval compare`: heads and bundles beside each other, over the same pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mdrt.benchmarks.accuracy.compare import CITED_ARE, Contender, as_plain, compare, markdown
from mdrt.benchmarks.accuracy.paper import cited
from mdrt.benchmarks.accuracy.protocols import PROTOCOLS, gain_interval
from mdrt.benchmarks.accuracy.settings import Entry, Setting
from mdrt.benchmarks.accuracy.store import Store
from mdrt.cli import main
from mdrt.cli.eval_asked import parse_head
from mdrt.runtime.bundle.loading import load_bundle, record_file, write_manifest
from mdrt.runtime.look.network import Network
from mdrt.runtime.segmenter import EMBEDDED

HEADS = ("--head", "attention", "--head", "maskdiffusion:map_power=3,attention_strides=16",
         "--head", "kmeans")  # fmt: skip


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def compared(*arguments: object) -> dict[str, Any]:
    done = evaluate("compare", "scenes", *arguments, "--json")
    assert done.exit_code == 0, done.output
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The embedded bundle with another noise."""
    folder = tmp_path / "other"
    shutil.copytree(EMBEDDED, folder)
    bundle = load_bundle(folder)
    np.save(folder / "noise.npy", -bundle.noise())
    files = {**bundle.manifest.files, "noise.npy": record_file(folder / "noise.npy")}
    write_manifest(folder, replace(bundle.manifest, files=files))
    return folder


def test_heads_and_bundles_in_one_table(tmp_path: Path, other: Path) -> None:
    out = tmp_path / "out"
    found = compared("--limit", 3, *HEADS, "-e", EMBEDDED, "-e", other, "-o", out)
    named, unnamed = found["tables"]
    assert [t["protocol"] for t in (named, unnamed)] == ["miou", "hungarian-image"]
    assert [row["head"] for row in named["rows"]] == ["attention", "maskdiffusion"] * 2
    assert [row["head"] for row in unnamed["rows"]] == ["kmeans"] * 2
    assert len({row["ledger"]["bundle"] for row in named["rows"]}) == 2
    first, *rest = named["rows"]
    assert (first["difference"], first["difference_interval"]) == (None, None)
    for row in rest:
        assert row["difference"] == pytest.approx(row["miou"] - first["miou"])
        assert row["own_seconds"] > 0
    assert named["rows"][1]["options"]["map_power"] == 3
    assert named["rows"][1]["options"]["attention_strides"] == [16]
    assert unnamed["cited"] == []  # nothing is published of scenes
    page = (out / "report.md").read_text()
    assert page.count("| other-") == 3
    assert "in the networks, of passes that no head before it asked for" in page


def test_it_agrees_with_run_and_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    compared("--limit", 1, *HEADS, "-o", out)
    found = compared("--limit", 3, *HEADS, "-o", out)
    again = evaluate("compare", "scenes", "--limit", 3, *HEADS, "-o", out, "--json")
    assert "pictures in" not in again.stderr
    assert json.loads(again.stdout) == found
    done = evaluate("run", "scenes", "--limit", 3, "--head", "attention", "--json",
                    "-o", tmp_path / "run")  # fmt: skip
    (alone,) = json.loads(done.stdout)["results"]
    assert alone["miou"] == found["tables"][0]["rows"][0]["miou"]
    assert alone["ledger"] == found["tables"][0]["rows"][0]["ledger"]


def test_one_look_serves_all_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is encoded once, whatever the number of heads."""
    encoded = []
    encode = Network.encode
    monkeypatch.setattr(
        Network, "encode", lambda self, *a, **k: encoded.append(1) or encode(self, *a, **k)
    )
    heads = ("--head", "spectral", "--head", "kmeans", "--head", "spectral:affinity=grid,"
             "affinity_power=1")  # fmt: skip
    found = compared("--limit", 2, *heads, "-o", tmp_path)
    first, *rest = found["tables"][0]["rows"]
    assert first["network_seconds"] > 0
    for row in rest:
        assert row["network_seconds"] < first["network_seconds"] / 10
    assert len(encoded) == 2


def contenders(path: Path, dataset: str, protocol: str, pictures: int = 20) -> list[Contender]:
    """Two heads, the second of which was not scored on the last picture."""
    meta = {
        **{"dataset": dataset, "split": "val", "classes": [["a"], ["b"]], "bundle": "0" * 64},
        **{"features": [16], "attention": [16]},
    }
    store, random = Store(path / "results.sqlite", meta), np.random.default_rng(3)
    kind = "maskdiffusion" if PROTOCOLS[protocol].matching == "none" else "spectral"
    entries = [Entry(Setting.of(kind, timestep=t), protocol) for t in (1, 2)]
    for picture in range(pictures):
        counts = {e.key: random.integers(0, 9, (2, 3)) for e in entries}
        if picture == pictures - 1:
            del counts[entries[1].key]
        store.add(f"{picture:03}", counts, {}, {entries[0].key: (0.5, 0.25)})
    return [Contender("x", store, entry) for entry in entries]


def test_differences_are_of_the_same_pictures(tmp_path: Path) -> None:
    first, second = contenders(tmp_path, "scenes", "miou")
    images = {f"{picture:03}" for picture in range(20)}
    (table,) = compare([first, second], images)
    assert [row.score.images for row in table.rows] == [19, 19]
    assert table.rows[0].seconds == (0.5, 0.25)
    assert table.rows[1].seconds is None
    both = images - {"019"}
    counts = [c.store.counts(c.entry.key, both) for c in (second, first)]
    assert table.rows[1].gain is not None
    assert table.rows[1].gain[1:] == gain_interval(PROTOCOLS["miou"], *counts, 2)


@pytest.mark.parametrize(
    ("dataset", "protocol", "methods"),
    [
        ("cocostuff27", "hungarian-dataset-320", {"HP", "STEGO", "PiCIE", "IIC"}),
        ("cityscapes27", "hungarian-image",
         {"spectral, the paper's", "kmeans, the paper's", "diffseg, the paper's",
          "k-means on DINOv2"}),
        ("potsdam6", "miou", {"maskdiffusion, the paper's", "MaskCLIP", "GEM"}),
        ("ade150", "miou", {"ODISE"}),
        ("potsdam6", "miou-256x352", set()),
        ("cocostuff27", "hungarian-image-128", set()),
        ("cocostuff27", "hungarian-image-positive", set()),
        ("voc20", "miou-by-image", set()),
        ("scenes", "miou", set()),
    ],
)  # fmt: skip
def test_published_figures_stand_under_the_protocol_they_are_counted_by(
    dataset: str, protocol: str, methods: set[str]
) -> None:
    assert {figure.method for figure in cited(dataset, protocol)} == methods


def test_cited_rows_are_marked(tmp_path: Path) -> None:
    rows = contenders(tmp_path, "cityscapes27", "hungarian-dataset")
    tables = compare(rows, {f"{picture:03}" for picture in range(20)})
    page = markdown(tables)
    assert "| cited | STEGO (Table 3, trained) | 21.0 |" in page
    assert f"C{CITED_ARE[1:]}." in page
    (table,) = as_plain(tables)
    assert {"method": "IIC", "miou": 6.4}.items() <= table["cited"][-1].items()


def test_a_heads_settings_may_hold_commas() -> None:
    head, given = parse_head("kmeans:feature_strides=64,32,timestep=9")
    assert head.name == "kmeans"
    assert given == {"feature_strides": (64, 32), "timestep": 9}
