"""The paper's figures stand beside the rows that are theirs, and beside no others."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mdrt.benchmarks.accuracy.paper import FIGURES, PICTURES, published
from mdrt.benchmarks.accuracy.report import ScoreRow, as_plain, markdown, notes, row
from mdrt.benchmarks.accuracy.settings import Entry, Setting
from mdrt.benchmarks.accuracy.store import Store
from mdrt.benchmarks.accuracy.sweep import tables
from mdrt.cli.eval_run import score_tables
from mdrt.cli.tables import print_whole
from mdrt.runtime.bundle.contract import AttentionOutput, FeatureOutput
from mdrt.runtime.segmenter import Segmenter

STRIDES = {"features": [64, 32, 16], "attention": [64, 32]}
EVERY = {"features": [64, 32, 16, 8], "attention": [64, 32, 16, 8]}


def ours(**values: Any) -> Setting:
    return Setting.of("maskdiffusion", **values)


OURS = ours()

CITYSCAPES = {
    OURS: 17.1,
    ours(timestep=9): 5.5,
    ours(timestep=99): 2.4,
    ours(timestep=499): 0.9,
    ours(attention_strides=(8, 16, 32, 64)): 12.5,
    ours(attention_strides=(16, 32, 64)): 14.5,
    ours(attention_strides=(32, 64)): 17.1,
    ours(prompt_classes="present"): 21.6,
    Setting.of("prototypes-gt", train=200): 35.0,
    Setting.of("spectral"): 28.5,
    Setting.of("kmeans"): 23.3,
    Setting.of("kmeans", feature_strides=(8,)): 14.8,
    Setting.of("kmeans", feature_strides=(16,)): 17.2,
    Setting.of("kmeans", feature_strides=(32, 64)): 20.3,
    Setting.of("kmeans", feature_strides=(8, 16, 32, 64)): 14.8,
    Setting.of("kmeans", feature_strides=(16, 32, 64)): 23.3,
}
"""Tables 2 to 7 of arXiv 2403.11194 on Cityscapes' 19 classes; sizes 64, 32, 16, 8 of a 512²
picture are strides 8, 16, 32, 64, and t = 1 is index 0."""

OTHERS = {
    ("potsdam6", OURS): 21.2,
    ("voc20", OURS): 29.9,
    ("cocostuff171", OURS): 5.5,
    ("cocostuff27", OURS): 13.0,
    ("voc20", ours(prompt_classes="present")): 87.2,
    ("cocostuff27", ours(prompt_classes="present")): 40.5,
    ("voc20", Setting.of("prototypes-gt", train=9)): 53.7,
    ("cocostuff27", Setting.of("prototypes-gt", train=9)): 39.8,
    ("cityscapes27", Setting.of("spectral")): 25.3,
    ("cocostuff27", Setting.of("spectral")): 58.4,
    ("cityscapes27", Setting.of("kmeans")): 20.1,
    ("cocostuff27", Setting.of("kmeans")): 35.0,
    ("cityscapes27", Setting.of("diffseg")): 21.2,
    ("cocostuff27", Setting.of("diffseg")): 43.6,
}


@pytest.mark.parametrize(
    ("dataset", "setting", "figure"),
    [("cityscapes19", setting, figure) for setting, figure in CITYSCAPES.items()]
    + [(dataset, setting, figure) for (dataset, setting), figure in OTHERS.items()],
)
def test_every_figure_of_the_paper(dataset: str, setting: Setting, figure: float) -> None:
    found = published(dataset, setting, STRIDES)
    assert found is not None
    assert found.miou == figure
    assert found.tables.startswith("Table")


@pytest.mark.parametrize(
    ("dataset", "setting", "strides"),
    [
        ("scenes", OURS, STRIDES),
        ("cityscapes27", OURS, STRIDES),
        ("cityscapes19", ours(timestep=100), STRIDES),
        ("cityscapes19", ours(pooling="softmax"), STRIDES),
        ("cityscapes19", ours(attention_strides=(32,)), STRIDES),
        ("cityscapes19", ours(feature_strides=(16,)), STRIDES),
        ("cityscapes19", ours(prompt_classes="present", timestep=9), STRIDES),
        ("cityscapes19", Setting.of("attention"), STRIDES),
        ("cityscapes19", Setting.of("spectral", segments="auto"), STRIDES),
        ("cityscapes19", Setting.of("spectral", timestep=200), STRIDES),
        ("cityscapes19", Setting.of("spectral"), {**EVERY, "features": [16]}),
    ],
)
def test_no_figure_where_the_paper_has_none(dataset, setting, strides) -> None:
    assert published(dataset, setting, strides) is None


def test_all_strides_of_a_bundle_are_those_it_has() -> None:
    """None stands for all of them: with four, those of Tables 5 and 6 that have four."""
    kmeans = published("cityscapes19", Setting.of("kmeans"), EVERY)
    assert kmeans is not None
    assert (kmeans.miou, kmeans.tables) == (14.8, "Table 6")
    named = ours(feature_strides=(16, 32, 64))
    found = published("cityscapes19", named, EVERY)
    assert found is not None
    assert (found.miou, found.tables) == (12.5, "Table 5")


@pytest.mark.parametrize(
    ("features", "attention", "figures"),
    [
        (3, 2, {17.1, 5.5, 2.4, 0.9, 21.6, 35.0, 28.5, 23.3, 17.2, 20.3}),
        (3, 4, {12.5, 14.5, 17.1}),
        (4, 2, {14.8, 17.2, 20.3, 23.3}),
    ],
)
def test_the_sweep_has_a_row_for_every_figure(
    features: int, attention: int, figures: set[float]
) -> None:
    """That a bundle of so many strides can give."""
    embedded = Segmenter().manifest
    manifest = replace(
        embedded,
        image=replace(embedded.image, size_multiple=64, native_size=512),
        features=tuple(FeatureOutput(f"f{s}", s, 4) for s in EVERY["features"][:features]),
        attention=tuple(
            AttentionOutput(f"logits_s{s}", s, 2, 4, 8, "") for s in EVERY["attention"][:attention]
        ),
    )
    strides = {
        "features": EVERY["features"][:features],
        "attention": EVERY["attention"][:attention],
    }
    rows = [entry.setting for table in tables(manifest, 0, 200) for _, entry in table.rows]
    found = {known.miou for s in rows if (known := published("cityscapes19", s, strides))}
    assert found >= figures


@pytest.fixture
def entries() -> list[Entry]:
    """One that the paper has a figure for, 5.5 of Table 4, and one without."""
    return [Entry(ours(timestep=t), "miou") for t in (9, 50)]


def scored(path: Path, entries: list[Entry], pictures: int, **meta: Any) -> Store:
    """Results of so many pictures, all the same."""
    about = {
        "dataset": "cityscapes19",
        "split": "val",
        "classes": [["a"], ["b"]],
        "bundle": "0" * 64,
    }
    about |= STRIDES
    store = Store(path, about | meta)
    counts = {entry.key: np.array([[3, 1, 0], [0, 4, 0]]) for entry in entries}
    for picture in range(pictures):
        store.add(f"{picture}", counts, {})
    return store


def rows_of(store: Store, entries: list[Entry]) -> list[ScoreRow]:
    return [found for entry in entries if (found := row(store, entry)) is not None]


def on_terminal(rows: list[ScoreRow]) -> str:
    file = StringIO()
    print_whole(Console(file=file), *score_tables("cityscapes19", rows, ["a row"] * len(rows)))
    return file.getvalue()


def test_reports_print_it(tmp_path: Path, entries: list[Entry]) -> None:
    store = scored(tmp_path / "results.sqlite", entries, 500, vocabulary=None)
    rows = rows_of(store, entries)
    text = markdown(rows)
    assert "| the paper |" in text
    assert "| 5.5 (Table 4) |" in text
    assert text.count("(Table") == 1
    assert "paper's" not in text
    values = json.loads(json.dumps(as_plain(store, rows)))["results"]
    assert [value["paper"] for value in values] == [{"miou": 5.5, "tables": "Table 4"}, None]
    assert [value["paper_left_out"] for value in values] == [None, None]
    assert "the paper\n" in on_terminal(rows)


@pytest.mark.parametrize(
    ("pictures", "vocabulary", "protocol", "reason"),
    [
        (1, None, "miou", "of all 500 pictures; scored here: 1"),
        (499, None, "miou", "of all 500 pictures; scored here: 499"),
        (500, 14, "miou", "of a model that takes any name; this one knows 14"),
        (20, 14, "miou", "of a model that takes any name; this one knows 14"),
        (500, None, "hungarian-dataset", "by protocol miou"),
    ],
)
def test_it_is_left_out_of_what_does_not_compare(
    tmp_path: Path, pictures: int, vocabulary: int | None, protocol: str, reason: str
) -> None:
    entries = [Entry(ours(timestep=t), protocol) for t in (9, 50)]
    store = scored(tmp_path / "results.sqlite", entries, pictures, vocabulary=vocabulary)
    rows = rows_of(store, entries)
    assert [r.compared for r in rows] == [None, None]
    assert "the paper |" not in markdown(rows)
    assert markdown(rows).endswith(f"|\n\nThe paper's 5.5 is {reason}.\n")
    printed = on_terminal(rows)
    assert printed.endswith(f"\nthe paper's 5.5 is {reason}\n")
    assert printed.count("the paper") == 1
    first, second = as_plain(store, rows)["results"]
    assert (first["paper"], first["paper_left_out"]) == (None, f"the paper's 5.5 is {reason}")
    assert (second["paper"], second["paper_left_out"]) == (None, None)


def test_a_segment_that_may_be_an_error_alone_has_no_published_figure(tmp_path: Path) -> None:
    entry = Entry(Setting.of("spectral"), "hungarian-image-positive")
    (found,) = rows_of(scored(tmp_path / "results.sqlite", [entry], 500), [entry])
    assert found.compared is None
    assert found.unlike == "by protocol hungarian-image"


def test_reasons_are_told_once(tmp_path: Path) -> None:
    entries = [Entry(ours(timestep=t), "miou") for t in (0, 9, 99)]
    rows = rows_of(scored(tmp_path / "results.sqlite", entries, 2), entries)
    expected = ["the paper's 17.1, 5.5, 2.4 are of all 500 pictures; scored here: 2"]
    assert notes(rows) == expected


def test_every_figure_is_of_a_known_number_of_pictures() -> None:
    assert {figure.dataset for figure in FIGURES} == PICTURES.keys()


def test_a_shard_is_a_part_and_the_shards_together_are_not(
    tmp_path: Path, entries: list[Entry]
) -> None:
    """One is of an mdrt that did not note the model's vocabulary."""
    whole = scored(tmp_path / "all.sqlite", entries, 0)
    parts = [scored(tmp_path / "old.sqlite", entries, 250)]
    parts.append(scored(tmp_path / "new.sqlite", entries, 0, vocabulary=None))
    for picture in range(250, 500):
        parts[1].add(f"{picture}", {entries[0].key: np.array([[3, 1, 0], [0, 4, 0]])}, {})
    for part in parts:
        assert rows_of(part, entries)[0].compared is None
        whole.merge(part)
    (first, second) = rows_of(whole, entries)
    assert (first.images, second.images) == (500, 250)
    assert first.compared is not None
    assert whole.meta["vocabulary"] is None
