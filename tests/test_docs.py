"""The pages do what they say: each command and each Python block of README and docs is run, in the
order of its page, in a folder with the pictures that pages speak of. Notes are not run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.cli import main
from mdrt.runtime.heads import HEADS
from mdrt.runtime.heads.options import declared
from mdrt.runtime.segmenter import EMBEDDED

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [*sorted((ROOT / "docs").glob("*.md"), reverse=True), ROOT / "README.md"]
NOTES: Final = sorted((ROOT / "docs" / "notes").rglob("*.md"))
MDRT: Final = f"""#!/bin/sh
exec {sys.executable} -P -c 'from mdrt.cli import main; main()' "$@"
"""

HUB_ID: Final = "stable-diffusion-v1-5/stable-diffusion-v1-5"
EXPORT: Final = f"mdrt export {HUB_ID} --out sd15"
"""The one export that is run."""


@dataclass(frozen=True)
class NotRun:
    """Lines of pages that no test can run.

    Attributes:
        pattern: of the whole line, or of a line of a Python block, which then is not run.
        reason: why not.
        instead: the test that does what they do, as a path from the root.
    """

    pattern: str
    reason: str
    instead: str


NOT_RUN: Final = (
    NotRun(
        r"mdrt batch s3:.*",
        "needs a cluster and an object store",
        "tests/batch/test_cluster.py",
    ),
    NotRun(
        r"pip install .*",
        "installs packages",
        "tests/test_extras.py",  # by `make extras-test`, each extra in an empty environment
    ),
    NotRun(
        r"mdrt export .* --out (sd15-half|sd15-fp16|sd15-taesd|sd15-all)( .*)?",
        "an export takes most of a minute, and one is run",
        "tests/export/test_export.py",
    ),
    NotRun(
        r"mdrt export .* --recommend .*",
        "an export takes most of a minute, and one is run",
        "tests/export/test_export_command.py",
    ),
    NotRun(
        r"mdrt export .* --out (dreamshaper(-offline)?|styled|sharper|sd15-of-half)",
        "an export takes most of a minute, and one is run",
        "tests/export/test_checkpoint.py",
    ),
    NotRun(
        r"weights = torch\.load\(.*",
        "there is no model to convert",
        "tests/export/test_pickles.py",
    ),
    NotRun(
        r"mdrt export .* --out (clip|dinov2|dinov2-onnx)",
        "models from the hub; random ones of their kind are exported",
        "tests/export/test_vit.py",
    ),
    NotRun(
        r"mdrt segment .* --engine (clip|dinov2)",
        "needs such an export",
        "tests/export/test_vit.py",
    ),
    NotRun(
        r".*unet(\.\w+)?\.plan.*",
        "engines run on a GPU",
        "tests/engines/test_segment.py",  # on a stand-in; on a GPU test_on_gpu.py
    ),
    NotRun(
        r".*(--provider cuda|provider=\"cuda\").*",
        "needs a GPU",
        "tests/engines/test_segment.py",
    ),
    NotRun(
        r"tritonserver .*|import tritonclient.*",
        "needs a server",
        "tests/tritonserver/test_server.py",  # by `make triton-test`
    ),
    NotRun(
        r"(\w+=\S+ )?mdrt serve( .*)?",
        "serves until it is ended",
        "tests/serve/test_workers.py",
    ),
    NotRun(
        r"curl .*",
        "asks a server",
        "tests/serve/test_api.py",
    ),
    NotRun(
        r"mdrt bench serve .*",
        "takes minutes",
        "tests/benchmarks/test_load.py",
    ),
    NotRun(
        r"cvat-cli .*",
        "needs a server of CVAT's",
        "tests/serve/test_cvat.py",
    ),
    NotRun(
        r"mdrt build .* --profile size=512:512:768",
        "the embedded model's size is outside this profile",
        "tests/engines/test_build.py",
    ),
)


def not_run(line: str) -> NotRun | None:
    return next((entry for entry in NOT_RUN if re.fullmatch(entry.pattern, line)), None)


@dataclass(frozen=True)
class Block:
    """What stands between two fences of a page."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands, without what follows a `#`."""
        lines = (re.sub(r"(^|\s+)#.*", "", line) for line in self.text.splitlines())
        return [line for line in lines if line.strip()]

    @property
    def file(self) -> str | None:
        """The file that a block shows: its first line is a comment that holds its name alone."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found[1] if found and self.language in ("text", "toml") else None


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*pair) for pair in found]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers pipeline for the hub's: three levels of Stable Diffusion's shape, random."""
    pytest.importorskip("torch")
    sys.path.insert(0, str(ROOT / "tests"))
    import random_models

    unet = random_models.sd1_unet(
        sample_size=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=1,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("hub") / "pipeline"
    return random_models.save_pipeline(folder, unet, tiny_vae=True, vae_levels=5)


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Path]]:
    """The bundle that `EXPORT` writes; it begins before the first page, which need not wait."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(checkpoint, folder / HUB_ID)  # a folder of the id's name is what is read
    install(folder)

    def bundle() -> Path:
        done.result()
        return folder / "sd15"

    with ThreadPoolExecutor(1) as beside:
        done = beside.submit(run_by_shell, EXPORT, folder)
        yield bundle


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A reader's folder: the examples, some pictures, bundles, data sets in the home folder."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for seed, name in enumerate(("photo.jpg", "photos/a.jpg", "photos/b.jpg", "photos/day/c.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(seed).image).save(tmp_path / name)
    if find_spec("rasterio") is not None:  # without it only the page of rasters fails
        georeferenced(tmp_path / "scene.tif")
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "outdoor.list").write_text("sky\nwater, sea\n")
    for name in ("sd15", "sd15-fp16", "sd15-all"):
        shutil.copytree(EMBEDDED, tmp_path / name)
    own_data(tmp_path / "mine")
    miniatures(tmp_path / "data")
    install(tmp_path)
    return tmp_path


def georeferenced(path: Path) -> None:
    """A small raster."""
    import rasterio

    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(0, 96, 0.5, 0.5)}
    with rasterio.open(path, "w", "GTiff", 190, 180, 3, dtype="uint8", **place) as file:
        file.write(render(1001, size=384).image[:180, :190].transpose(2, 0, 1))


def install(folder: Path) -> None:
    """The programs that `run_by_shell` finds."""
    program = folder / ".bin" / "mdrt"
    program.parent.mkdir()
    program.write_text(MDRT)
    program.chmod(0o755)
    (program.parent / "python3").symlink_to(sys.executable)


def own_data(root: Path) -> None:
    """A data set as docs/evaluation.md describes it."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for name, seed in (("a", 3), ("b", 4)):
        scene = render(seed)
        Image.fromarray(scene.image).save(root / "images" / f"{name}.jpg")
        Image.fromarray(scene.mask).save(root / "masks" / f"{name}.png")


def miniatures(root: Path) -> None:
    """Data sets in their trees, a few pixels each."""
    sys.path.insert(0, str(ROOT / "tests" / "accuracy"))
    import test_datasets

    test_datasets.cityscapes(root / "cityscapes")
    test_datasets.voc(root / "VOCdevkit/VOC2012")


def run_line(line: str, folder: Path) -> None:
    """One line in a folder, which is the working one: by a shell where it needs one, else here,
    where everything is imported already."""
    words = shlex.split(line)
    if words[0] != "mdrt" or {"|", ">"} & set(words):
        run_by_shell(line, folder)
        return
    done = CliRunner().invoke(main, [re.sub("^~", str(folder), word) for word in words[1:]])
    assert done.exit_code == 0, f"{line}\n{done.output}{done.exception}"


def run_by_shell(line: str, folder: Path) -> None:
    """One line by a shell that knows `mdrt`."""
    path = f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.filterwarnings("ignore::mdrt.MdrtWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_says(
    page: Path, desk: Path, exported: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.file is not None:
            (desk / block.file).write_text(block.text)
        elif block.language == "python":
            if not any(not_run(line) for line in block.lines):
                exec(compile(block.text, f"{page.name}: {block.text[:40]!r}", "exec"), names)
        elif block.language == "bash":
            for line in block.lines:
                if not_run(line):
                    continue
                if line == EXPORT:
                    shutil.rmtree(desk / "sd15")  # a stand-in until now
                    shutil.copytree(exported(), desk / "sd15")
                else:
                    run_line(line, desk)
        else:
            assert block.language == "text", f"{page.name}: a block of {block.language!r}"


@pytest.mark.parametrize("entry", NOT_RUN, ids=lambda entry: entry.instead)
def test_what_is_not_run_stands_on_a_page_and_is_tested_elsewhere(entry: NotRun) -> None:
    lines = [line for page in PAGES for block in blocks(page) for line in block.lines]
    assert any(not_run(line) == entry for line in lines), entry.pattern
    assert entry.reason
    assert (ROOT / entry.instead).is_file()


def test_the_records_keys_are_those_of_the_guide(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    ask = "mdrt segment examples/valley.png --quiet"
    run_line(f"{ask} --out out/a --classes 'sky, car' --set threshold=0.6 --max-size 384", desk)
    run_line(f"{ask} --out out/b --segments 3 --format png --format npz", desk)
    found = set()
    for path in (desk / "out").glob("*/valley.json"):
        record = json.loads(path.read_text())
        settings = {option.name for option in declared(HEADS[record["settings"]["head"]].options)}
        assert settings <= set(record["settings"])
        found |= {
            "settings.SETTING" if key in {f"settings.{name}" for name in settings} else key
            for key in keys(record)
            if key != "files.npz"
        }
        found |= {"files.FORMAT"} if "npz" in record["files"] else set()
    guide = (ROOT / "docs" / "guide.md").read_text()
    table = guide.partition("### The record")[2].partition("\n#")[0]
    assert found == set(re.findall(r"^\| `([\w.\[\]]+)` \|", table, re.MULTILINE))


def keys(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Every key, those of objects within after a dot, those of lists of objects after `[]`."""
    for name, value in values.items():
        yield above + name
        if isinstance(value, Mapping):
            yield from keys(value, f"{above}{name}.")
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, Mapping):
                    yield from keys(entry, f"{above}{name}[].")


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, those in code left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_and_picture_is_reached() -> None:
    reached = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in (*PAGES, *NOTES)
        for link in links(page)
    }
    files = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png")}
    assert not files - reached


def test_users_pages_are_free_of_the_laboratory() -> None:
    """Who wants to use mdrt meets no command of those who build it."""
    assert not [page.name for page in PAGES if "benchmarks.lab" in page.read_text()]
