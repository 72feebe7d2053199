"""`mdrt raster`: a raster as one picture, however it is cut, in its own place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import mdrt
from mdrt import kernels
from mdrt.benchmarks.lab.scenes.renderer import render
from mdrt.cli import main
from mdrt.kernels import Grid

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed; extra geo has it")

from quick_model import QuickSession, quick_segmenter  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from mdrt.runtime.heads import HEADS  # noqa: E402
from mdrt.runtime.pictures.render import colours  # noqa: E402
from mdrt.runtime.raster import averaging, lattice, segment, store  # noqa: E402
from mdrt.runtime.raster.geotiff import Raster  # noqa: E402
from mdrt.runtime.raster.lattice import Window  # noqa: E402

NAMES = ["sky", "mountain", "grass", "sand", "water", "tree", "house"]
PLACE = {"crs": "EPSG:32633", "transform": from_origin(96 * 5_200, 96 * 55_000, 0.5, 0.5)}
PAPER = {"mode": "paper", "presence": 0.0}

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """(700, 500, 3): four scenes that meet."""
    scenes = [render(seed, size=384).image for seed in (1001, 1002, 1003, 1004)]
    rows = [np.concatenate(scenes[:2], axis=1), np.concatenate(scenes[2:], axis=1)]
    return np.concatenate(rows)[:700, :500]


@pytest.fixture(scope="module")
def quick() -> mdrt.Segmenter:
    return quick_segmenter()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(pixels: NDArray[Any], name: str = "scene.tif", **profile: Any) -> Path:
        path = tmp_path / name
        bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        colormap = profile.pop("colormap", None)
        settings = {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype.name, **PLACE}
        size = {"height": bands.shape[1], "width": bands.shape[2]}
        with rasterio.open(path, "w", **{**settings, **size, **profile}) as file:
            file.write(bands)
            if colormap is not None:
                file.write_colormap(1, colormap)
        return path

    return written


def labelled(
    segmenter: mdrt.Segmenter,
    path: Path,
    head: str = "maskdiffusion",
    out: str = "labels.tif",
    **asked: Any,
) -> tuple[NDArray[Any], dict[str, Any]]:
    chosen = HEADS[head]
    if chosen.kind == "named":
        asked.setdefault("classes", NAMES)
    target = path.with_name(out)
    given = {**PAPER, **asked} if chosen.name == "maskdiffusion" else {**asked}
    record = segment.segment_raster(segmenter, path, target, chosen, **given)
    assert not segment.state_folder(target).exists()
    with rasterio.open(target) as file:
        return file.read(1), record


def raster(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["raster", *map(str, arguments)])


def test_the_command_writes_labels_and_record(write: Write, scene: NDArray[np.uint8]) -> None:
    path = write(scene[:190, :180])
    labels = path.with_name("labels.tif")
    outcome = raster(path, labels, "--classes", ", ".join(NAMES), "--set", "mode=paper", "--json")
    assert outcome.exit_code == 0, outcome.output
    record = json.loads(outcome.stdout)
    assert record == json.loads(labels.with_suffix(".json").read_text())
    with rasterio.open(labels) as file:
        found = file.read(1)
    counts = [entry["pixels"] for entry in record["classes"]]
    assert counts == np.bincount(found.ravel(), minlength=len(NAMES)).tolist()
    assert sorted(p.name for p in path.parent.iterdir()) == ["labels.json", "labels.tif", path.name]
    assert "wrote" in raster(path, labels, "--set", "mode=paper").output  # replaces its own


def test_the_result_lies_where_the_raster_lies(
    quick: mdrt.Segmenter, write: Write, scene: NDArray[np.uint8]
) -> None:
    path = write(scene)
    labelled(quick, path)
    with rasterio.open(path.with_name("labels.tif")) as file:
        assert (file.crs, file.transform) == (PLACE["crs"], PLACE["transform"])
        assert (file.nodata, file.dtypes) == (255, ("uint8",))
        assert file.profile["tiled"]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2]
        table = np.array([file.colormap(1)[label] for label in range(len(NAMES))])
        np.testing.assert_array_equal(table[:, :3], colours(NAMES))
        assert [file.tags(1)[f"CLASS_{label}"] for label in range(len(NAMES))] == NAMES


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("maskdiffusion", {}),
        ("maskdiffusion", {"mode": "released", "refine": "pamr", "attention": 0.0}),
        ("maskdiffusion", {"pooling": "exp", "words": "late", "mirror": True}),
        ("attention", {}),
        ("attention", {"pooling": "logit", "refine": "none"}),
    ],
)
def test_blocks_do_not_matter(
    head: str,
    settings: dict[str, Any],
    quick: mdrt.Segmenter,
    write: Write,
    scene: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(scene)
    whole, record = labelled(quick, path, head, **settings)
    monkeypatch.setattr(lattice, "TILES", 1)
    cut, _ = labelled(quick, path, head, "cut.tif", **settings)
    assert len(np.unique(whole)) > 2
    assert (whole != cut).mean() < 1e-4  # sums in another order
    for entry in record["classes"]:
        assert entry["pixels"] == (whole == entry["label"]).sum()


@pytest.mark.parametrize("pooling", ["exp", "softmax", "logit"])
@pytest.mark.parametrize("mode", ["paper", "released"])
def test_averages_are_those_of_one_picture(
    pooling: str, mode: str, segmenter: mdrt.Segmenter, tmp_path: Path
) -> None:
    """Eq. 4 and 5 over blocks, beside the kernels over all of it at once."""
    random = np.random.default_rng(0)
    places = lattice.Lattice((160, 224), 64, 16)
    blocks = [Window(0, 0, 96, 224), Window(96, 0, 160, 128), Window(96, 128, 160, 224)]
    kept = store.Store(tmp_path / "state", blocks)
    kept.begin({}, 0)
    features = random.normal(size=(5, 10, 14)).astype(np.float32)
    logits = random.normal(size=(2, 3, 10, 14)).astype(np.float32) * 3
    owner = np.arange(3)
    whole = Window(0, 0, 160, 224).cells(16)
    for index, block in enumerate(blocks):
        rows, columns = block.cells(16).slices(whole)
        maps, scale = kernels.class_totals([logits[:, :, rows, columns]], owner, 3, pooling)
        maps = np.log(maps) + scale[:, None, None] if pooling == "exp" else maps
        kept.put(index, "f", features[:, rows, columns])
        kept.put(index, "maps", maps)
        kept.put(index, "valid", np.ones((1, *maps.shape[1:]), np.float32))
    options = HEADS["maskdiffusion"].settle(
        {}, {"pooling": pooling, "mode": mode, "map_power": 2.0}
    )
    found = averaging.whole_maps(kept, pooling)
    assert found is not None
    expected = kernels.class_maps([logits], owner, 3, pooling)
    stored = kept.window("maps", Window(0, 0, 160, 224), 16)
    np.testing.assert_allclose(found(stored), expected, atol=1e-6)
    (prototypes,) = averaging.whole_prototypes(
        segmenter.network, kept, places, 32, {"f": (16, 5)}, found, 16, options
    )
    grid = Grid(expected**2)
    (reference,) = kernels.prototypes([Grid(features)], grid, (160, 224), mode)
    np.testing.assert_allclose(prototypes, reference, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [({}, 1), ({"words": "late"}, 1), ({"mode": "released"}, 2), ({"mirror": True}, 2)],
)
def test_every_tile_is_seen_once(
    settings: dict[str, Any],
    passes: int,
    quick: mdrt.Segmenter,
    write: Write,
    scene: NDArray[np.uint8],
) -> None:
    before = QuickSession.ran
    told: list[float] = []
    progress: segment.Progress = lambda what, done, total: told.append(done)  # noqa: E731
    _, record = labelled(quick, write(scene[:190, :180]), progress=progress, **settings)
    assert QuickSession.ran - before == passes * record["settings"]["tiles"] == passes * 4
    seeing = told[: told.index(1) + 1]
    np.testing.assert_allclose(seeing, np.linspace(0, 1, passes * 4 + 1))


def test_half_a_tile_is_where_the_next_one_lies(
    quick: mdrt.Segmenter, write: Write, scene: NDArray[np.uint8]
) -> None:
    """The raster elsewhere on the ground: tiles are moved by half of one, and are the same."""
    there = PLACE["transform"] @ rasterio.Affine.translation(192, -192)
    one, _ = labelled(quick, write(scene))
    other, _ = labelled(quick, write(scene, "there.tif", transform=there), out="there-labels.tif")
    np.testing.assert_array_equal(one, other)


def test_a_crop_is_seen_through_the_same_tiles(
    quick: mdrt.Segmenter,
    write: Write,
    scene: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its origin is: what is seen of a place does not depend on the file, up to a tile
    from its edge, where the tiles reach beyond."""
    monkeypatch.setattr(store.Store, "sweep", lambda self: None)
    seen, leads = [], []
    for top, name in ((0, "scene.tif"), (100, "crop.tif")):
        transform = PLACE["transform"] @ rasterio.Affine.translation(0, top)
        path = write(np.tile(scene, (2, 1, 1))[top:], name, transform=transform)
        segment.segment_raster(
            quick, path, path.with_name(f"l-{name}"), HEADS["maskdiffusion"], NAMES, **PAPER
        )
        with Raster(path, None, 10**7) as opened:
            places = lattice.Lattice(opened.size, 384, 64)
            lead = lattice.lead_of(opened.corner, places.step)
        places = lattice.Lattice(places.size, 384, 64, lead)
        state = store.Store(path.with_name(f".l-{name}.mdrt"), places.blocks())
        seen.append(state.window("features_s16", places.whole, 16))
        leads.append(lead[0])
    whole, crop = seen
    shift = (100 + leads[0] - leads[1]) // 16
    inside = slice(24, crop.shape[1] - 24)
    np.testing.assert_allclose(whole[:, shift:][:, inside], crop[:, inside], atol=1e-5)


def test_pixels_without_data_are_void_and_change_nothing(
    quick: mdrt.Segmenter, write: Write, scene: NDArray[np.uint8]
) -> None:
    part = scene[:300, :400].copy()
    hole = np.zeros(part.shape[:2], bool)
    hole[100:180, 250:] = True
    found = []
    for value in (0, 77):  # what lies under the mask
        part[hole] = value
        path = write(part, f"{value}.tif")
        with rasterio.open(path, "r+") as file:
            file.write_mask(~hole)
        labels, record = labelled(quick, path, out=f"labels-{value}.tif")
        np.testing.assert_array_equal(labels == 255, hole)
        assert record["void"] == hole.sum()
        found.append(labels)
    np.testing.assert_array_equal(*found)


def test_segments_without_names_are_of_the_whole_raster(
    quick: mdrt.Segmenter, write: Write, scene: NDArray[np.uint8]
) -> None:
    labels, record = labelled(quick, write(scene[:400]), "kmeans", segments=3)
    counts = np.bincount(labels.ravel(), minlength=3)
    assert len(counts) == 3
    assert (
        counts.tolist() == sorted(counts, reverse=True) == [c["pixels"] for c in record["classes"]]
    )


CUT = (
    "import sys; from mdrt.runtime.raster import lattice; lattice.TILES = 1; "
    "from mdrt.cli import main; main(sys.argv[1:], prog_name='mdrt')"
)


def test_who_is_killed_goes_on(
    segmenter: mdrt.Segmenter,
    write: Write,
    scene: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(scene[:400, :150])
    target = path.with_name("labels.tif")
    state = segment.state_folder(target)
    arguments = [
        "raster",
        path,
        target,
        "--classes",
        ", ".join(NAMES),
        "--set",
        "mode=paper",
        "--set",
        "presence=0",
    ]
    command = [sys.executable, "-c", CUT, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (state / "000000.valid.npy").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.is_dir()
    assert not target.exists()
    seen = len(list(state.glob("*.valid.npy")))
    monkeypatch.setattr(lattice, "TILES", 1)
    told: list[tuple[str, float, int]] = []
    went_on, _ = labelled(segmenter, path, progress=lambda *step: told.append(step))
    assert told[0][:2] == ("seeing", seen)
    assert seen >= 1
    at_once, _ = labelled(segmenter, path, out="at-once.tif")
    np.testing.assert_array_equal(went_on, at_once)


def test_another_question_begins_anew(
    quick: mdrt.Segmenter, write: Write, scene: NDArray[np.uint8]
) -> None:
    path = write(scene[:200, :200])

    def stop(step: str, done: float, total: int) -> None:
        if step == "labelling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelled(quick, path, progress=stop)
    told: list[tuple[str, float, int]] = []
    other = [*NAMES[:-1], "road"]
    labelled(quick, path, classes=other, progress=lambda *step: told.append(step))
    assert told[0] == ("seeing", 0, 1)


def test_deep_palette_and_grey_rasters_are_8_bit_rgb(
    write: Write, scene: NDArray[np.uint8]
) -> None:
    window, grey = Window(0, 0, 60, 80), scene[:60, :80, 0]

    def read(path: Path, bands: list[int] | None = None) -> NDArray[np.uint8]:
        with Raster(path, bands, 10**6) as opened:
            return opened.read(window, (0, 0))

    np.testing.assert_array_equal(read(write(scene[:60, :80])), scene[:60, :80])
    np.testing.assert_array_equal(read(write(scene[:60, :80]), [3, 2, 1]), scene[:60, :80, ::-1])
    np.testing.assert_array_equal(read(write(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    table = {value: (value, 255 - value, 7, 255) for value in range(256)}
    painted = read(write(grey, colormap=table, photometric="palette"))
    np.testing.assert_array_equal(painted, np.stack([grey, 255 - grey, grey * 0 + 7], axis=-1))
    deep = scene[:60, :80].astype(np.uint16) * 3 + 1000
    low, high = np.percentile(deep.reshape(-1, 3), (2, 98), axis=0)
    expected = np.clip((deep - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(read(write(deep)), expected, atol=0.51)


def test_what_is_beyond_the_edge_is_its_mirror_image(
    write: Write, scene: NDArray[np.uint8]
) -> None:
    part = scene[:50, :70]
    with Raster(write(part), None, 10**6) as opened:
        seen = opened.read(Window(-30, -64, 128, 192), (5, 9))
        valid = opened.valid(Window(-30, -64, 128, 192), (5, 9))
    pad = ((30 + 5, 128 - 5 - 50), (64 + 9, 192 - 9 - 70))
    np.testing.assert_array_equal(seen, np.pad(part, (*pad, (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(valid, np.pad(np.ones((50, 70), bool), pad))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--head", "goca"], "goca reads a picture as one square"),
        (["--segments", "3", "--set", "scales=yes"], "scales is of pictures"),
        (["--segments", "3", "--head", "diffseg"], "diffseg"),
        (["--max-pixels", "99"], "--max-pixels"),
        (["--bands", "1,2,9"], "bands are 1,2,9"),
        (["--bands", "red"], "expected numbers of bands"),
        (["--classes", "sky, sky"], "given twice"),
        (["--set", "refine=sharp"], "refine"),
    ],
)
def test_what_is_wrong_is_one_line(
    options: list[str], line: str, write: Write, scene: NDArray[np.uint8]
) -> None:
    path = write(scene[:40, :40])
    outcome = raster(path, path.with_name("labels.tif"), *options)
    assert outcome.exit_code != 0
    assert line in outcome.output
    assert "Traceback" not in outcome.output
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_rasters_that_are_none_are_one_line(write: Write, scene: NDArray[np.uint8]) -> None:
    path = write(scene[:40, :40])
    text = path.with_name("text.tif")
    text.write_text("no raster")
    empty = write(np.full((40, 40, 3), 7, np.uint8), "empty.tif", nodata=7)
    for source, line in (
        (text, "none that GDAL reads"),
        (path.with_name("gone.tif"), "does not exist"),
        (empty, "no pixel with data"),
    ):
        outcome = raster(source, path.with_name("labels.tif"))
        assert outcome.exit_code == 1
        assert line in outcome.output
    assert not path.with_name("labels.tif").exists()
    assert "would replace the input" in raster(path, path).output
    assert "ends in .tif" in raster(path, path.with_name("labels.png")).output
    text.with_name("labels.tif").write_text("another's")
    assert "no earlier result" in raster(path, path.with_name("labels.tif")).output


def test_a_full_disk_is_said_before_the_networks_run(
    write: Write, scene: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = store.shutil.disk_usage("/")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    path = write(scene[:40, :40])
    outcome = raster(path, path.with_name("labels.tif"))
    assert outcome.exit_code == 1
    assert "write to a larger disk" in outcome.output
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_guard_of_pictures_is_as_it_was() -> None:
    """What opens rasters opens no picture: a server's guard against bombs stands."""
    from PIL import Image

    assert Image.MAX_IMAGE_PIXELS == 89_478_485
