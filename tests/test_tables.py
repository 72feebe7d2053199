"""Every table is whole on a terminal of 80 columns, and plain in a file or a pipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdrt.benchmarks.accuracy.ledger import Ledger
from mdrt.benchmarks.accuracy.paper import Published
from mdrt.benchmarks.accuracy.report import ScoreRow
from mdrt.benchmarks.accuracy.settings import Entry, Setting
from mdrt.benchmarks.speed.contenders import CONTENDERS
from mdrt.benchmarks.speed.task import STAGES
from mdrt.cli import main
from mdrt.cli.eval_run import score_tables
from mdrt.cli.growth import growth_table
from mdrt.cli.latency import race_tables, work_table
from mdrt.cli.tables import engine_table, print_whole, proof_table
from mdrt.export.proof import Row
from mdrt.runtime.bundle.contract import FileRecord
from mdrt.runtime.bundle.plan import BuildOptions, Kernels, PlanRecord, Proof, Range, Shapes

WIDTH = 80
ANSI = re.compile(r"\x1b\[[0-9;]*m")

GRAPHS = ("vae_encoder.onnx", "text_encoder.onnx", "keys.onnx", "values.onnx", "unet.onnx")


def on_terminal(*tables: Table, width: int = WIDTH) -> str:
    file = StringIO()
    print_whole(Console(file=file, force_terminal=True, color_system=None, width=width), *tables)
    return file.getvalue()


def piped(*tables: Table) -> str:
    file = StringIO()
    print_whole(Console(file=file, width=WIDTH), *tables)
    return file.getvalue()


def words(tables: list[Table]) -> set[str]:
    """Every word of every title, heading, cell and caption."""
    texts = [text for table in tables for text in (table.title, table.caption)]
    for table in tables:
        for column in table.columns:
            texts += [column.header, *column.cells]
    render = Console().render_str
    plain = (render(t).plain if isinstance(t, str) else str(t) for t in texts if t is not None)
    return {word for text in plain for word in text.split()}


def proof() -> list[Table]:
    """Of Stable Diffusion's names and sizes."""
    names = ("input_ids", "self_attention_s64_12", "features_s16", "text_embeddings")
    graphs = (*GRAPHS, "vae_encoder.cpu.onnx", "unet.cpu.onnx")
    note = "the graph's twin for CPUs, with large convolutions by minimal filtering"
    return [
        proof_table(
            [
                Row(graph, name, ((2, 8, 4096, 4096), (1, 8, 64, 64)), error, 1e-4, note)
                for graph in graphs
                for name, error in zip(names, (0.0, 1.2e-5, 3e-3, float("nan")), strict=True)
            ]
        )
    ]


def engines() -> list[Table]:
    shapes = {
        "sample": Shapes((1, 4, 8, 8), (1, 4, 64, 64), (16, 4, 128, 128)),
        "timestep": Shapes((1,), (1,), (16,)),
        "encoder_hidden_states": Shapes((1, 77, 1024), (1, 77, 1024), (16, 77, 1024)),
    }
    record = PlanRecord(
        "unet.onnx", {}, "tensorrt-rtx", "1.5.0.114", "mdrt 0.1.0", "fp16",
        {"batch": Range(1, 1, 16), "size": Range(512, 512, 1024)}, shapes, ("8.9", "9.0"),
        BuildOptions(1 << 30, 3, False, False), 12345, Kernels(1234, 123, 45),
        FileRecord("0" * 64, 12_345_600_000), 1234.5,
        Proof("NVIDIA H100 80GB HBM3", 12, 1e-4, 1e-3),
    )  # fmt: skip
    return [engine_table(dict.fromkeys(GRAPHS, record))]


def scores() -> list[Table]:
    """With every column, and the longest setting and protocol that there are."""
    strides = (64, 32, 16, 8)
    settings = [
        Setting.of(
            head,
            timestep=999,
            feature_strides=strides,
            attention_strides=strides,
            prompt_classes="predicted",
        )
        for head in ("maskdiffusion", "maskdiffusion")
    ] + [Setting.of("prototypes-gt", train=200, feature_strides=strides)]
    paper = Published("cityscapes19", "maskdiffusion", 17.1, "Tables 2, 4, 5, 7")
    meta = {"dataset": "cityscapes19", "split": "val", "classes": [["road"]], "bundle": "0" * 64}
    rows = [
        ScoreRow(
            entry := Entry(setting, protocol),
            Ledger.of(meta, entry, images),
            *(images, 100.0, 100.0, 100.0, 100.0, 100.0, (), paper, unlike),
        )
        for setting in settings
        for protocol, images, unlike in (
            ("miou-256x352", 5000, ""),
            ("hungarian-image-positive", 1, "by protocol hungarian-image"),
            ("hungarian-image-positive", 20, ""),
        )
    ]
    return list(score_tables("Prototypes and prompts", rows, [r.entry.setting.words for r in rows]))


REPORT = {
    "task": {"size": 512, "classes": ["road"] * 19, "threads": None},
    "machine": {
        "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "cores": 2,
        "memory_bytes": 24 << 30,
        "load": 0.3,
    },
    "versions": dict.fromkeys(("python", "mdrt", "onnxruntime", "openvino"), "12.34.56.post1"),
    "read_s": 12.3,
    "peaks": {"product": 1234e9, "convolution": 2345e9},
    "multiply_adds": {"vae": 2345e9, "unet": 1234e9},
    "contenders": {
        name: {
            "stages_s": dict.fromkeys(STAGES, 1234.5),
            "p50_s": 1234.5,
            "p95_s": 1234.5,
            "load_s": 123.4,
            "first_s": 1234.5,
            "peak_bytes": 123.45e9,
            "agreement with mdrt": 1.0,
        }
        for name in (*CONTENDERS, "sd15-fp16")
    },
    "axes": {
        axis: [
            {
                "value": value,
                "network_s": 1234.5,
                "after_s": 1234.567,
                "after_share": 1.0,
                "peak_bytes": 123.45e9,
            }
            for value in (1, 2048)
        ]
        for axis in ("classes", "size", "images")
    },
}
TABLES: dict[str, Callable[[], list[Table]]] = {
    "proof": proof,
    "engines": engines,
    "scores": scores,
    "race": lambda: race_tables(REPORT),
    "work": lambda: [work_table(REPORT)],
    "growth": lambda: [growth_table(REPORT)],
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_whole_on_a_terminal(name: str) -> None:
    expected = words(TABLES[name]())
    printed = on_terminal(*TABLES[name]())
    assert max(map(cell_len, printed.splitlines())) <= WIDTH
    assert expected <= set(printed.split())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_a_pipe_is_plain(name: str) -> None:
    tables = TABLES[name]()
    count = sum(
        1 + table.row_count + bool(table.title) + len(str(table.caption or "").splitlines())
        for table in tables
    )
    printed = piped(*tables)
    assert len(printed.splitlines()) == count + len(tables) - 1  # a row is a line
    assert "\x1b" not in printed
    assert not re.search("[─-╿]", printed)  # no box
    assert all(line == line.rstrip() for line in printed.splitlines())
    assert words(TABLES[name]()) <= set(printed.split())


def test_columns_are_aligned_and_lines_are_parted_by_blanks_alone() -> None:
    def table() -> Table:
        made = Table(title="three", caption="one line")
        made.add_column("name")
        made.add_column("share", justify="right")
        made.add_row(Text("sky [blue]"), "12.5%")
        made.add_row("sand", "1.0%")
        return made

    expected = "three\nname        share\nsky [blue]  12.5%\nsand         1.0%\none line\n"
    assert piped(table()) == expected
    assert on_terminal(table()) == expected
    assert piped(table(), table()) == f"{expected}\n{expected}"


def test_numbers_stay_in_one_piece_where_text_can_fold() -> None:
    table = Table("what it does")
    table.add_column("at most", justify="right")
    table.add_row("a long way round " * 9, "57 (45%)")
    assert "57 (45%)" in on_terminal(table, width=24)


def test_a_terminal_too_narrow_for_its_words_loses_none_of_them() -> None:
    table = Table("name", "value")
    table.add_row("feature_strides=64,32,16,8", "hungarian-image-positive")
    lines = on_terminal(table, width=30).splitlines()
    assert max(map(cell_len, lines)) <= 30
    assert set("feature_strides") <= set("".join(lines))
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    "arguments",
    [["heads"], *(["heads", head] for head in ("maskdiffusion", "diffseg")), ["eval", "list"]],
)
def test_lists_fit_a_terminal(arguments: list[str]) -> None:
    def run(**environment: str) -> list[str]:
        done = CliRunner(env={"COLUMNS": f"{WIDTH}", **environment}).invoke(main, arguments)
        assert done.exit_code == 0, done.output
        return ANSI.sub("", done.stdout).splitlines()

    terminal, plain = run(FORCE_COLOR="1"), run()
    assert max(map(cell_len, terminal)) <= WIDTH
    assert max(map(cell_len, plain)) > WIDTH  # which does not fold
    assert set(" ".join(plain).split()) == set(" ".join(terminal).split())
