"""The `mdrt` command as a whole: its commands, their help, and the commands that pages show."""

import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mdrt.cli import main

ROOT = Path(__file__).parents[1]
MDRT = [sys.executable, "-P", "-c", "from mdrt.cli import main; main()"]
A_DOZEN = 12
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def every(command=main, path="mdrt"):
    """Every command that is no group, by its path."""
    if not isinstance(command, click.Group):
        return {path: command}
    context = click.Context(command)
    return {
        found: one
        for name in command.list_commands(context)
        for found, one in every(command.get_command(context, name), f"{path} {name}").items()
    }


def find(words):
    """The command that words name, and what is left of them."""
    command, rest = main, list(words)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"no command {name}"
    return command, rest


def examples(text):
    """Lines of `mdrt …`, without what follows a `#`, and what the shell sends on."""
    lines = re.findall(r"^ *(mdrt [a-z].*)$", text, re.MULTILINE)
    words = (shlex.split(line, comments=True)[1:] for line in lines)
    return [list(takewhile(lambda word: word not in (">", "|"), found)) for found in words]


def test_commands_are_listed_as_they_are_used():
    done = CliRunner().invoke(main, ["--help"])
    found = re.findall(r"^  (\w+)  +\w", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert found == [
        "segment",
        "batch",
        "raster",
        "serve",
        "heads",
        "export",
        "build",
        "triton",
        "eval",
        "bench",
    ]


@pytest.mark.parametrize(("path", "command"), every().items())
def test_help_is_short_and_whole_on_demand(path, command):
    words = path.split()[1:]
    short, whole = (
        CliRunner().invoke(main, [*words, f"--{name}"]) for name in ("help", "help-all")
    )
    assert short.exit_code == whole.exit_code == 0
    options = [o for o in command.params if isinstance(o, click.Option)]
    shown = [o for o in options if re.search(rf"^  .*{o.opts[-1]}\b", short.stdout, re.MULTILINE)]
    assert len([o for o in shown if o.opts != ["--help-all"]]) <= A_DOZEN
    for o in options:
        assert re.search(rf"^  .*{o.opts[-1]}\b", whole.stdout, re.MULTILINE)
    assert "--debug" in whole.stdout
    assert "--debug" not in short.stdout


@pytest.mark.parametrize(("path", "command"), every().items())
def test_what_several_commands_have_means_the_same(path, command):
    spelled = {option.name: option for option in command.params}
    for name, opts in {
        "engine": ["-e", "--engine"],
        "as_json": ["--json"],
        "out": ["-o", "--out"],
        "provider": ["--provider"],
        "settings": ["--set"],
    }.items():
        if isinstance(spelled.get(name), click.Option):
            assert spelled[name].opts == opts
    for option in spelled.values():
        assert "--output" not in option.opts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_pages_can_be_typed(page):
    fenced = re.findall(r"^```bash$(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    for words in examples("\n".join(fenced)):
        command, rest = find(words)
        command.make_parser(click.Context(command)).parse_args(rest)


def test_commands_in_help_can_be_typed():
    groups = [main, *(main.get_command(click.Context(main), name) for name in ("eval", "bench"))]
    found = [words for one in (*groups, *every().values()) for words in examples(one.help)]
    assert len(found) > 10
    for words in found:
        command, rest = find(words)
        command.make_parser(click.Context(command)).parse_args(rest)


def test_the_page_of_heads_is_what_the_command_prints():
    """Written by `mdrt heads --markdown > docs/heads.md`."""
    done = CliRunner().invoke(main, ["heads", "--markdown"])
    assert done.exit_code == 0, done.output
    assert (ROOT / "docs" / "heads.md").read_text() == done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["beach.png"], "did you mean `mdrt segment beach.png`?"),
        (["segmnt"], "did you mean segment?"),
        (["segment", "beach.png", "--head", "maskdifusion"], "did you mean maskdiffusion?"),
        (["segment", "beach.png", "--set", "treshold=1"], "did you mean threshold?"),
    ],
)
def test_what_may_be_meant(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beach.png").write_bytes(b"")
    done = CliRunner().invoke(main, words)
    assert done.exit_code != 0
    assert told in done.stderr


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_reader_that_leaves_early_ends_it_quietly(picture_file, tmp_path, form):
    """As `mdrt segment … | head -1` does."""
    arguments = ["segment", picture_file, "--classes", "sky, sea", "--out", tmp_path / "out", *form]
    process = subprocess.Popen(
        [*MDRT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    (line,) = process.stderr.read().splitlines()
    assert "drawn scenes only" in line
    assert process.wait() == 1
