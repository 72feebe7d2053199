"""`mdrt segment` as a user meets it: files that appear, errors of one line, exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mdrt.cli import main
from mdrt.cli import pictures as batch
from mdrt.runtime import segmenter
from mdrt.runtime.disk import atomic
from mdrt.runtime.pictures import images, output


def run(*arguments):
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


def assert_one_line_error(result, *words):
    """A user's mistake: non-zero, no traceback, one line that says what."""
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert lines
    for word in words:
        assert word in result.output


def test_writes_labels_overlay_and_record(picture_file, tmp_path):
    out = tmp_path / "out"
    result = run(picture_file, "--classes", "sky, water, boat", "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["scene.json", "scene.overlay.png", "scene.png"]
    labels = Image.open(out / "scene.png")
    assert labels.mode == "P"
    assert labels.size == (256, 256)
    record = json.loads((out / "scene.json").read_text())
    assert [entry["name"] for entry in record["classes"]] == ["sky", "water", "boat"]
    counts = np.bincount(np.asarray(labels).ravel(), minlength=3)
    assert [entry["pixels"] for entry in record["classes"]] == counts.tolist()
    assert sum(entry["share"] for entry in record["classes"]) == pytest.approx(1, abs=1e-5)
    assert record["versions"].keys() == {"mdrt", "onnxruntime", "numpy"}
    assert record["seconds"]["unet"] > 0


def test_json_on_standard_output(picture_file, tmp_path):
    result = run(picture_file, "--unsupervised", "--segments", 3, "--json", "--out", tmp_path / "o")
    record = json.loads(result.stdout)
    assert len(record["classes"]) == 3
    assert record["files"]["labels"].endswith("scene.png")


def test_default_classes_of_the_embedded_model(picture_file, tmp_path):
    result = run(picture_file, "--json", "--out", tmp_path / "o")
    assert len(json.loads(result.stdout)["classes"]) == 14


def test_class_file_background_and_no_overlay(picture_file, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("water\nboat, ship\n")
    out = tmp_path / "out"
    result = run(
        picture_file, "--classes", classes, "--background", "sky", "--no-overlay", "--out", out
    )
    assert result.exit_code == 0, result.output
    record = json.loads((out / "scene.json").read_text())
    assert [entry["name"] for entry in record["classes"]] == ["water", "boat", "sky"]
    assert record["background"] == "sky"
    assert not (out / "scene.overlay.png").exists()


@pytest.mark.parametrize("background", [" Water", "sea"])
def test_a_background_is_found_however_it_is_written(picture_file, tmp_path, background):
    classes = tmp_path / "classes.txt"
    classes.write_text("sky\nwater, sea\n")
    arguments = ["--classes", classes, "--background", background, "--json"]
    result = run(picture_file, *arguments, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [entry["name"] for entry in record["classes"]] == ["sky", "water"]
    assert record["background"] == "water"


def test_one_bad_image_does_not_stop_the_others(picture_file, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture_file.read_bytes()[:500])
    out = tmp_path / "out"
    missing = tmp_path / "missing.png"
    result = run(bad, missing, picture_file, "--classes", "sky, water", "--out", out)
    assert_one_line_error(result, "bad.png", "missing.png", "2 of 3 pictures failed")
    assert (out / "scene.png").exists()
    assert not list(out.glob("bad*"))


def test_a_surprise_in_one_picture_does_not_stop_the_others(picture_file, tmp_path, monkeypatch):
    def read(path, *limits, read_image=images.read_image):
        if path.name == "odd.png":
            raise ZeroDivisionError("two\nlines")
        return read_image(path, *limits)

    monkeypatch.setattr(batch, "read_image", read)
    out = tmp_path / "out"
    result = run(tmp_path / "odd.png", picture_file, "--classes", "sky, water", "--out", out)
    assert_one_line_error(result, "1 of 2 pictures failed")
    line = f"Error: {tmp_path / 'odd.png'}: ZeroDivisionError: two lines; "
    told = [found for found in result.stderr.splitlines() if found.startswith(line)]
    assert len(told) == 1
    assert "--debug" in told[0]
    assert "MDRT_DEBUG=1" in told[0]
    assert (out / "scene.png").exists()


@pytest.mark.parametrize("asked", ["option", "first", "environment"])
def test_a_surprise_can_be_seen_whole(picture_file, tmp_path, monkeypatch, asked):
    def read(path, *limits, read_image=images.read_image):
        return 1 / 0 if path.name == "odd.png" else read_image(path, *limits)

    monkeypatch.setattr(batch, "read_image", read)
    out = tmp_path / "out"
    words = ["segment", tmp_path / "odd.png", picture_file, "--classes", "sky", "--out", out]
    words = {"option": [*words, "--debug"], "first": ["--debug", *words]}.get(asked, words)
    if asked == "environment":
        monkeypatch.setenv("MDRT_DEBUG", "1")
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "1 / 0" in result.stderr  # the line of code
    assert "ZeroDivisionError" in result.stderr
    assert (out / "scene.png").exists()


def test_a_damaged_picture_can_be_seen_whole(tmp_path):
    """What the decoder said where, behind the line that tells what to do."""
    (tmp_path / "bad.tif").write_bytes(b"II*\0" + b"\0" * 20)
    result = run(tmp_path / "bad.tif", "--debug", "--out", tmp_path / "out")
    assert "Traceback" in result.stderr
    assert "bad.tif" in result.stderr.splitlines()[-2]


@pytest.mark.parametrize("debug", [False, True])
def test_a_surprise_in_the_command_itself(picture_file, tmp_path, monkeypatch, debug):
    def load(*_arguments, **_options):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(segmenter, "load_bundle", load)
    result = run(picture_file, *(["--debug"] if debug else []), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert ("Traceback" in result.stderr) == debug
    (line,) = [found for found in result.stderr.splitlines() if found.startswith("Error: ")]
    assert line.startswith("Error: ZeroDivisionError: two lines; ")
    assert "--debug" in line


def test_a_folder_of_pictures(picture_file, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.open(picture_file).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"what macOS leaves beside a.png on other disks")
    (folder / "older.png").mkdir()
    out = tmp_path / "out"
    assert run(folder, "--classes", "sky, water", "--out", out).exit_code == 0
    assert (out / "a.png").exists()
    assert (out / "b.png").exists()
    assert_one_line_error(run(tmp_path / "out2", "--classes", "sky"), "out2")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run(tmp_path / "empty", "--classes", "sky"), "holds no picture")


def test_equal_stems_do_not_overwrite_each_other(picture_file, tmp_path):
    paths = [tmp_path / "a" / "x.png", tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.open(picture_file).save(path)
    out = tmp_path / "out"
    assert run(*paths, "--classes", "sky, water", "--no-overlay", "--out", out).exit_code == 0
    assert len(list(out.glob("*.json"))) == 3


def test_results_never_replace_a_picture(picture_file, tmp_path):
    before = picture_file.read_bytes()
    assert_one_line_error(run(picture_file, "--classes", "sky", "--out", tmp_path), "would replace")
    assert picture_file.read_bytes() == before


@pytest.fixture
def labelled(picture_file, tmp_path):
    """A folder as data sets have them: a picture, its mask and its annotation, of one name."""
    folder = tmp_path / "gt"
    folder.mkdir()
    Image.open(picture_file).save(folder / "a.jpg")
    (folder / "a.png").write_bytes(b"the user's mask")
    (folder / "a.json").write_text('{"schema": "the user\'s", "versions": []}')
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("more", [[], ["--no-overlay"]])
@pytest.mark.parametrize("lost", [None, "a.png", "a.json"])
def test_results_never_replace_files_of_others(labelled, lost, more):
    if lost is not None:
        (labelled / lost).unlink()
    before = contents(labelled)
    arguments = [labelled / "a.jpg", labelled / "missing.jpg", "--classes", "sky, water", *more]
    result = run(*arguments, "--out", labelled)
    assert_one_line_error(result, "a.json" if lost == "a.png" else "a.png", "--overwrite", "--out")
    assert "missing.jpg" not in result.output  # said before anything runs
    assert contents(labelled) == before
    result = run(labelled / "a.jpg", "--classes", "sky", "--out", labelled, "--overwrite", *more)
    assert result.exit_code == 0, result.output
    assert Image.open(labelled / "a.png").mode == "P"


def test_only_what_will_be_written_matters(labelled):
    overlay = labelled / "a.overlay.png"
    overlay.write_bytes(b"the user's")
    for name in ("a.png", "a.json"):
        (labelled / name).unlink()
    arguments = [labelled / "a.jpg", "--classes", "sky", "--out", labelled]
    assert_one_line_error(run(*arguments), "a.overlay.png")
    assert run(*arguments, "--no-overlay").exit_code == 0
    assert overlay.read_bytes() == b"the user's"


def test_earlier_results_are_replaced(picture_file, tmp_path):
    out = tmp_path / "out"
    for names in ("sky, water", "sky, water, boat"):
        result = run(picture_file, "--classes", names, "--out", out)
        assert result.exit_code == 0, result.output
    assert len(json.loads((out / "scene.json").read_text())["classes"]) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', "\xff", "[" * 100_000])
def test_an_annotation_of_any_kind_is_no_earlier_result(labelled, text):
    (labelled / "a.json").write_text(text, encoding="latin-1")
    assert_one_line_error(run(labelled / "a.jpg", "--classes", "sky", "--out", labelled), "a.png")


def test_inputs_are_never_replaced(picture_file, tmp_path):
    classes = tmp_path / "scene.json"
    classes.write_text("sky\nwater\n")
    elsewhere = tmp_path / "pictures" / "scene.png"
    elsewhere.parent.mkdir()
    picture_file.rename(elsewhere)
    arguments = [elsewhere, "--classes", f"@{classes}", "--overwrite", "--out"]
    assert_one_line_error(run(*arguments, tmp_path), "would replace", "scene.json")
    assert_one_line_error(run(*arguments, elsewhere.parent), "would replace", "scene.png")
    assert classes.read_text() == "sky\nwater\n"
    assert Image.open(elsewhere).mode == "RGB"


def test_names_that_collide_in_any_way_stay_apart(tmp_path):
    names = ["a.png.png", "a.png", "a.jpg", "a.overlay.png", "a-2.png"]
    targets = output.choose_targets(tmp_path, {tmp_path / name: Path() for name in names})
    files = [f for target in targets.values() for f in output.result_files(target).values()]
    assert len(set(files)) == 3 * len(names)


def test_markup_in_names_is_text(picture_file, tmp_path):
    missing = tmp_path / "nope[/x].png"
    out = tmp_path / "out"
    result = run(missing, picture_file, "--classes", "sky,[/x],[red]", "--out", out)
    assert_one_line_error(result, "nope[/x].png", "1 of 2")
    assert (out / "scene.json").exists()


def test_file_names_need_not_be_utf8(picture_file, tmp_path):
    odd = os.fsencode(tmp_path) + b"/b\xff.png"
    with open(odd, "wb") as file:  # noqa: PTH123 (pathlib takes no bytes)
        file.write(picture_file.read_bytes())
    result = run(os.fsdecode(odd), "--classes", "sky, water", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*.json"))) == 1


def test_over_long_names_are_errors_of_one_line(picture_file, tmp_path):
    assert_one_line_error(run("x" * 300 + ".png", "--classes", "sky", "--out", tmp_path / "o"))
    assert_one_line_error(run(picture_file, "--engine", "x" * 300, "--classes", "sky"))


def test_a_byte_order_mark_is_no_part_of_a_name(picture_file, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_bytes("\ufeffsky\nwater\n".encode())
    result = run(picture_file, "--classes", classes, "--json", "--out", tmp_path / "o")
    assert [entry["name"] for entry in json.loads(result.stdout)["classes"]] == ["sky", "water"]


def test_unknown_names_are_warned_of(picture_file, tmp_path):
    result = run(picture_file, "--classes", "sky, zebra", "--out", tmp_path / "o")
    assert result.exit_code == 0
    assert "never saw zebra" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", ""], ["empty"]),
        (["--classes", "sky,,grass"], ["class 2", "empty"]),
        (["--classes", "sky, sky"], ["given twice"]),
        (["--classes", "nothing.txt"], ["does not exist"]),
        (["--classes", "sky", "--unsupervised"], ["exclude each other"]),
        (["--classes", "sky", "--segments", "3"], ["without names"]),
        (["--unsupervised", "--segments", "0"], ["1 to 256"]),
        (["--unsupervised", "--segments", "20000"], ["1 to 256"]),
        (["--unsupervised", "--segments", "many"], ["auto"]),
        (["--unsupervised", "--background", "sky"], ["needs class names"]),
        (["--classes", "sky", "--background", " "], ["background has no name"]),
        (["--classes", "sky", "--set", "timestep=1000"], ["timestep is 1000", "999"]),
        (["--classes", "sky", "--set", "timestep=-1"], ["timestep is -1"]),
        (["--classes", "sky", "--set", "timestep"], ["'timestep'", "NAME=VALUE"]),
        (["--set", "mode=paper", "--set", "mode=released"], ["mode is given twice"]),
        (["--set", "refine=none", "--refine", "pamr"], ["--refine", "give one"]),
        (["--set", "sharpness=2"], ["no setting sharpness", "map_power"]),
        (["--head", "watershed"], ["'watershed'", "maskdiffusion", "kmeans"]),
        (["--head", "kmeans", "--classes", "sky"], ["--classes", "attention", "kmeans"]),
        (["--head", "attention", "--unsupervised"], ["--unsupervised", "spectral", "kmeans"]),
        (["--head", "attention", "--segments", "3"], ["without names"]),
        (["--head", "kmeans", "--background", "sky"], ["needs class names"]),
        (["--head", "diffseg", "--segments", "3"], ["diffseg finds how many"]),
        (["--classes", "sky", "--provider", "tpu"], ["unknown provider", "cpu"]),
        (["--classes", "sky", "--engine", "nowhere"], ["no bundle at nowhere"]),
        (["--classes", "sky", "--engine", "unet.plan"], ["no bundle", "mdrt export"]),
        (["--classes", "sky", "--set", "mode=fast"], ["mode is 'fast'", "paper"]),
        (["--classes", "sky", "--max-size", "0"], ["max-size"]),
    ],
)
def test_bad_options(picture_file, tmp_path, options, words):
    out = tmp_path / "out"
    assert_one_line_error(run(picture_file, *options, "--out", out), *words)
    assert not list(out.glob("*")) if out.exists() else True


@pytest.mark.parametrize("naming", [["--classes", "sky"], ["--unsupervised"], []])
def test_a_bad_timestep_fails_once_before_any_picture(picture_file, tmp_path, naming):
    out = tmp_path / "out"
    paths = [picture_file, tmp_path / "missing.png"]
    result = run(*paths, *naming, "--set", "timestep=1000", "--out", out)
    assert_one_line_error(result, "timestep is 1000", "0 to 999")
    assert result.output.count("timestep is 1000") == 1
    assert "missing.png" not in result.output
    assert not out.exists()


@pytest.mark.parametrize(("pixels", "warned"), [(100, 1), (384, 0)])
def test_a_max_size_below_the_native_size_is_warned_of_once(tmp_path, pixels, warned):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.new("RGB", (512, 256), (90, 150, 220)).save(path)
    out = tmp_path / "out"
    result = run(*paths, "--classes", "sky", "--max-size", pixels, "--json", "--out", out)
    assert result.exit_code == 0, result.output
    for line in result.stdout.splitlines():
        assert json.loads(line)["settings"]["network_size"] == [192, 384]
    assert result.stderr.count("--max-size 100") == warned
    assert result.stderr.count("384") == warned


def test_only_stop_words_is_a_sensible_result(picture_file, tmp_path):
    result = run(picture_file, "--classes", "the, and, of", "--json", "--out", tmp_path / "o")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["classes"]) == 3


@pytest.mark.parametrize(
    ("size", "more"),
    [((1, 1), []), ((20_000, 40), []), ((20_000, 3), ["--max-size", 4000]), ((2, 900), [])],
)
def test_extreme_sizes(tmp_path, size, more):
    path = tmp_path / "x.png"
    Image.new("RGB", size, (90, 150, 220)).save(path)
    out = tmp_path / "out"
    result = run(path, "--classes", "sky, grass", *more, "--out", out)
    assert result.exit_code == 0, result.output
    assert Image.open(out / "x.png").size == size


def test_an_output_folder_that_is_a_file(picture_file, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    result = run(picture_file, "--classes", "sky", "--out", blocked / "out")
    assert_one_line_error(result, "cannot be written to", "--out")


def test_a_full_disk_leaves_nothing_half_written(picture_file, tmp_path, monkeypatch):
    def fail(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    out = tmp_path / "out"
    result = run(picture_file, "--classes", "sky, water", "--out", out)
    assert_one_line_error(result, "No space left", "1 of 1 pictures failed")
    assert not out.exists()


def test_a_result_appears_whole_or_not_at_all(picture_file, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("mdrt.runtime.pictures.render.overlay", fail)
    out = tmp_path / "new" / "out"
    assert run(picture_file, "--classes", "sky, water", "--out", out).exit_code != 0
    assert not out.parent.exists()


def test_a_folder_that_was_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    result = run(tmp_path / "no.png", "--classes", "sky", "--out", tmp_path / "out" / "more")
    assert_one_line_error(result, "1 of 1")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_kill_during_the_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def die(file):
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.write_atomically(path, die)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_runs_where_torch_cannot_be_imported(picture_file, tmp_path):
    """The base install: torch, diffusers, transformers and onnx are not there."""
    code = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers', 'onnx', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        "from mdrt.cli import main\n"
        f"main(['segment', {str(picture_file)!r}, '--classes', 'sky, water, boat',"
        f" '--out', {str(tmp_path / 'out')!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scene.png").exists()


def test_runs_for_a_user_without_a_home(picture_file, tmp_path):
    """A container that runs under a number no user has, and sets no HOME."""
    code = (
        "import pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "import mdrt\n"
        "from mdrt.cli import main\n"
        f"main(['segment', {str(picture_file)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
    )
    homeless = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=homeless
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scene.png").exists()


def test_export_without_its_extra_names_it(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from mdrt.cli import main\n"
        f"main(['export', {str(tmp_path)!r}, '-o', {str(tmp_path / 'b')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install '.[export]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "now"),
    [
        (["--pooling", "exp"], "--set pooling=…"),
        (["--timestep=5"], "--set timestep=…"),
        (["--no-refine"], "--refine none"),
        (["--method", "kmeans"], "--head, as in --head kmeans"),
        (["--sharpness", "2"], "--set map_power=…, and of unnamed segments --set affinity_power"),
    ],
)
def test_an_option_of_earlier_versions_names_its_successor(picture_file, option, now):
    result = run(picture_file, *option)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert f"is now {now}" in line


def test_settings_are_those_of_the_head(picture_file, tmp_path):
    settings = ["--set", "mode=released", "--set", "map_power=3", "--refine", "pamr"]
    out = ["--json", "--out", tmp_path / "o"]
    found = json.loads(run(picture_file, "--classes", "sky, water", *settings, *out).stdout)
    assert found["schema"] == 4
    used = found["settings"]
    assert (used["head"], used["mode"], used["map_power"]) == ("maskdiffusion", "released", 3)
    assert used["refine"] == "pamr"
    assert run(picture_file, "--head", "kmeans", *out).exit_code == 0
    used = json.loads((tmp_path / "o" / "scene.json").read_text())["settings"]
    assert used["head"] == "kmeans"
    assert "map_power" not in used


def test_a_summary_says_what_did_it(picture_file, tmp_path):
    result = run(picture_file, "--classes", "sky, water", "--out", tmp_path / "o")
    assert "storybook, maskdiffusion, cpu, 1 tile, " in result.stdout


def test_help_teaches():
    result = run("--help")
    assert result.exit_code == 0
    for option in ("--classes", "--unsupervised", "--engine", "--set", "--recursive"):
        assert option in result.output
    for option in ("--max-size", "--threads", "--debug", "--background"):
        assert option not in result.output
        assert option in run("--help-all").output
