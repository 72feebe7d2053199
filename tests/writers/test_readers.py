"""Every format as its own tools read it."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdrt.runtime.errors import OutputError
from mdrt.runtime.writers import find_format
from mdrt.runtime.writers.brush import brush_rle
from mdrt.runtime.writers.contours import regions
from mdrt.runtime.writers.runs import class_runs

from .made import NAMES, blobs, result_of, run_of

KEYS = ("a", "sea/a", "sea/ö & <b>")


@pytest.fixture(params=["blobs", "void", "one", "many"])
def results(request):
    """Three pictures: usual ones, without any class, of one pixel, of 300 classes."""
    if request.param == "blobs":
        return {key: result_of(blobs(seed)) for seed, key in enumerate(KEYS)}, run_of()
    if request.param == "void":
        return {key: result_of(np.full((4, 7), 255, np.uint8)) for key in KEYS}, run_of()
    if request.param == "one":
        return {key: result_of(np.full((1, 1), 2, np.uint8)) for key in KEYS}, run_of()
    names = tuple(f"class {i}" for i in range(300))
    labels = np.arange(600).reshape(20, 30).astype(np.uint16) // 2
    labels[3] = 65535
    return {key: result_of(labels, names) for key in KEYS}, run_of(names)


def test_coco_by_pycocotools(written, results):
    tools = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    pictures, run = results
    folder = written("coco", pictures, run)
    coco = tools.COCO(str(folder / "annotations.json"))
    assert {entry["name"] for entry in coco.loadCats(coco.getCatIds())} == set(run.names)
    for result, image in zip(pictures.values(), coco.dataset["images"], strict=True):
        assert (image["height"], image["width"]) == result.labels.shape
        seen = np.full(result.labels.shape, np.iinfo(result.labels.dtype).max, np.int64)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(one).astype(bool)
            seen[mask] = one["category_id"] - 1
            assert one["area"] == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            assert one["bbox"] == [
                columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1,
            ]  # fmt: skip
            assert one["score"] == pytest.approx(result.confidence[mask].mean(), abs=1e-5)
        np.testing.assert_array_equal(seen, result.labels)
    assert [entry["file_name"] for entry in coco.dataset["images"]] == [f"{k}.png" for k in KEYS]
    about = coco.dataset["info"]["mdrt"]
    assert about["settings"]["head"] == "maskdiffusion"
    assert about["bundle"] == "0" * 64
    if coco.getAnnIds():
        assert coco.loadRes(coco.dataset["annotations"]).getAnnIds() == coco.getAnnIds()


def test_coco_panoptic_by_the_rules_of_panopticapi(written, results):
    """Those of panopticapi's `pq_compute` and converters, which is no package: every id of the PNG
    is declared, every declared segment has pixels, areas and boxes fit, categories exist."""
    pictures, run = results
    folder = written("coco-panoptic", pictures, run)
    values = json.loads((folder / "panoptic.json").read_text())
    categories = {entry["id"]: entry for entry in values["categories"]}
    images = {entry["id"]: entry for entry in values["images"]}
    assert len(categories) == len(values["categories"])
    assert all(entry["isthing"] in (0, 1) for entry in categories.values())
    for annotation, result in zip(values["annotations"], pictures.values(), strict=True):
        png = np.asarray(Image.open(folder / "panoptic" / annotation["file_name"]), np.uint32)
        assert png.shape == (*result.labels.shape, 3)
        ids = png[..., 0] + 256 * png[..., 1] + 256 * 256 * png[..., 2]
        declared = {entry["id"]: entry for entry in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(declared)
        assert len(declared) == len(annotation["segments_info"])
        for number, entry in declared.items():
            assert entry["category_id"] in categories
            assert entry["iscrowd"] == 0
            rows, columns = np.nonzero(ids == number)
            assert entry["area"] == len(rows)
            assert entry["bbox"] == [
                columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1,
            ]  # fmt: skip
        wanted = np.where(result.labels == np.iinfo(result.labels.dtype).max, 0, result.labels + 1)
        np.testing.assert_array_equal(ids, wanted)
        assert annotation["image_id"] in images


def test_label_studio_by_its_own_converter(written, results):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    pictures, run = results
    folder = written("labelstudio", pictures, run)
    tasks = json.loads((folder / "tasks.json").read_text())
    for task, result in zip(tasks, pictures.values(), strict=True):
        seen = np.full(result.labels.shape, np.iinfo(result.labels.dtype).max, np.int64)
        (prediction,) = task["predictions"]
        for one in prediction["result"]:
            height, width = one["original_height"], one["original_width"]
            mask = brush.decode_rle(one["value"]["rle"]).reshape(height, width, 4)
            assert set(np.unique(mask)) <= {0, 255}
            (name,) = one["value"]["brushlabels"]
            seen[mask[..., 3] > 0] = run.names.index(name)
        np.testing.assert_array_equal(seen, result.labels)


def test_the_config_of_label_studio_is_one(written):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="needs label-studio-sdk"
    )
    folder = written("labelstudio", {"a": result_of(blobs(1))})
    config = interface.LabelInterface((folder / "config.xml").read_text())
    config.validate()
    assert set(config.get_control("label").labels) == set(NAMES)
    for task in json.loads((folder / "tasks.json").read_text()):
        assert config.validate_task({"data": task["data"]})
        assert all(map(config.validate_prediction, task["predictions"]))


def test_strokes_are_those_of_label_studio():
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    labels = np.repeat(blobs(5), 40, axis=1)  # runs of more than 65,536 bytes
    labels[10:25] = 1
    for runs in class_runs(labels, 3):
        mask = (labels == runs.label).astype(np.uint8) * 255
        theirs = brush.encode_rle(np.repeat(mask.ravel(), 4))
        ours = brush_rle(runs).tolist()
        assert theirs[: len(ours)] == ours
        assert not any(theirs[len(ours) :])


def test_cvat_by_its_sdk(written, results):
    masks = pytest.importorskip("cvat_sdk.masks", reason="needs cvat-sdk")
    models = pytest.importorskip("cvat_sdk.models", reason="needs cvat-sdk")
    pictures, run = results
    folder = written("cvat", pictures, run)
    root = ET.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [e.text for e in root.iterfind("meta/task/labels/label/name")] == list(run.names)
    images = root.findall("image")
    assert [image.get("name") for image in images] == [f"{key}.png" for key in pictures]
    for image, result in zip(images, pictures.values(), strict=True):
        height, width = int(image.get("height")), int(image.get("width"))
        assert (height, width) == result.labels.shape
        seen = np.full(result.labels.shape, np.iinfo(result.labels.dtype).max, np.int64)
        for mask in image.findall("mask"):
            left, top, across, down = (
                int(mask.get(name)) for name in ("left", "top", "width", "height")
            )
            runs = [int(text) for text in mask.get("rle").split(",")]
            points = [*runs, left, top, left + across - 1, top + down - 1]
            models.LabeledShapeRequest(
                type="mask", frame=0, label_id=1, points=list(map(float, points))
            )
            found = masks.decode_mask(points, image_width=width, image_height=height)
            assert masks.encode_mask(found, [left, top, left + across, top + down]) == points
            seen[found] = run.names.index(mask.get("label"))
        np.testing.assert_array_equal(seen, result.labels)


def test_voc_as_its_readers_do(written):
    """As torchvision's VOCSegmentation and Datumaro: ids of a set, a path each, a label map."""
    results = {key: result_of(blobs(seed)) for seed, key in enumerate(KEYS)}
    folder = written("voc", results, run_of(background=NAMES[0]))
    ids = (folder / "ImageSets/Segmentation/default.txt").read_text().splitlines()
    assert ids == list(KEYS)
    lines = (folder / "labelmap.txt").read_text().splitlines()[1:]
    colours = {}
    for line in lines:
        name, colour, parts, actions = line.split(":")
        assert not parts + actions
        colours[name] = tuple(map(int, colour.split(",")))
    assert list(colours) == [name.replace(":", " ") for name in NAMES]
    assert colours[NAMES[0]] == (0, 0, 0)
    for key, result in results.items():
        image = Image.open(folder / "JPEGImages" / f"{key}.jpg")
        mask = Image.open(folder / "SegmentationClass" / f"{key}.png")
        assert image.format == "JPEG"
        assert mask.mode == "P"
        assert mask.size == image.size == result.labels.shape[::-1]
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
        painted = np.asarray(mask.convert("RGB"))
        for value, colour in enumerate(colours.values()):
            assert (painted[result.labels == value] == colour).all()
        assert (painted[result.labels == 255] == (224, 224, 192)).all()
    folder = written("voc", results)  # no class is the background: 0 is left free
    mask = np.asarray(Image.open(folder / "SegmentationClass" / "a.png"))
    labels = results["a"].labels
    np.testing.assert_array_equal(mask, np.where(labels == 255, 255, labels + 1))


@pytest.mark.parametrize("name", ["voc", "fiftyone"])
def test_what_does_not_fit_into_eight_bits_is_said_first(name):
    names = tuple(f"class {i}" for i in range(255))
    with pytest.raises(OutputError, match="holds 254 classes"):
        find_format(name).check(run_of(names))
    find_format(name).check(run_of(names, background="class 3"))


def test_a_jpeg_is_copied_and_a_turned_one_is_not(written, tmp_path):
    labels = blobs(0, (40, 64))
    plain, turned = tmp_path / "plain.jpg", tmp_path / "turned.jpg"
    image = Image.fromarray(result_of(labels).image)
    image.save(plain, quality=40)
    exif = Image.Exif()
    exif[274] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    results = {name: result_of(labels, source=str(tmp_path / f"{name}.jpg")) for name in (
        "plain", "turned",
    )}  # fmt: skip
    folder = written("voc", results) / "JPEGImages"
    assert (folder / "plain.jpg").read_bytes() == plain.read_bytes()
    assert Image.open(folder / "turned.jpg").size == (64, 40)
    assert not Image.open(folder / "turned.jpg").getexif()


def test_fiftyone_files(written):
    results = {key: result_of(blobs(seed)) for seed, key in enumerate(KEYS)}
    folder = written("fiftyone", results)
    targets = json.loads((folder / "mask_targets.json").read_text())["mask_targets"]
    assert list(targets) == ["0", "1", "2", "3", "255"]
    assert list(targets.values()) == ["background", *NAMES, "void"]
    for key, result in results.items():
        mask = Image.open(folder / "labels" / f"{key}.png")
        assert mask.mode == "L"
        wanted = np.where(result.labels == 255, 255, result.labels + 1)
        np.testing.assert_array_equal(np.asarray(mask), wanted)
        assert Image.open(folder / "data" / f"{key}.jpg").size == mask.size


@pytest.mark.parametrize("seed", range(8))
def test_outlines_rasterise_to_the_labels(seed):
    features = pytest.importorskip("rasterio.features", reason="needs rasterio")
    labels = blobs(seed, (1 + 9 * seed, 60 - 7 * seed), classes=2 + seed % 3, void=seed % 2 == 0)
    found = regions(labels)
    assert len(found) == sum(1 for _ in features.shapes(labels, connectivity=4))
    shapes = [
        ({"type": "Polygon", "coordinates": [ring(r.outline), *map(ring, r.holes)]}, r.label)
        for r in found
    ]
    filled = features.rasterize(shapes, labels.shape, fill=77, dtype="int32")
    np.testing.assert_array_equal(filled, labels)
    for region in found:
        assert shoelace(region.outline) == region.extent > 0
        assert all(shoelace(hole) < 0 for hole in region.holes)


def ring(points):
    return [*points.tolist(), points[0].tolist()]


def shoelace(points):
    (x, y), (u, v) = points.T, np.roll(points, -1, axis=0).T
    return (x * v - u * y).sum() / 2


def test_geojson_by_gdal(written, results):
    """rasterio.features is GDAL's: each class burnt with its holes gives the labels again."""
    features = pytest.importorskip("rasterio.features", reason="needs rasterio")
    pictures, run = results
    folder = written("polygons", pictures, run) / "geojson"
    for key, result in pictures.items():
        values = json.loads((folder / f"{key}.geojson").read_text())
        assert values["type"] == "FeatureCollection"
        none = np.iinfo(result.labels.dtype).max
        seen = np.full(result.labels.shape, none, np.int64)
        for feature in values["features"]:
            label = feature["properties"]["label"]
            mask = features.rasterize([feature["geometry"]], result.labels.shape).astype(bool)
            seen[mask] = label
            assert feature["properties"]["pixels"] == mask.sum() > 0
            assert feature["properties"]["name"] == run.names[label]
        np.testing.assert_array_equal(seen, result.labels)


def test_labelme_drawn_in_its_order(written):
    features = pytest.importorskip("rasterio.features", reason="needs rasterio")
    labels = blobs(3)
    folder = written("polygons", {"a": result_of(labels)}) / "labelme"
    values = json.loads((folder / "a.json").read_text())
    assert (values["imageHeight"], values["imageWidth"]) == labels.shape
    places = {name: place for place, name in enumerate(NAMES)} | {"__ignore__": 255}
    seen = np.full(labels.shape, 77)
    for shape in values["shapes"]:  # one over another, as labelme's shapes_to_label draws them
        assert shape["shape_type"] == "polygon"
        polygon = {"type": "Polygon", "coordinates": [ring(np.array(shape["points"]))]}
        seen[features.rasterize([polygon], labels.shape) > 0] = places[shape["label"]]
    np.testing.assert_array_equal(seen, labels)


def test_npz(written, results):
    pictures, run = results
    folder = written("npz", pictures, run)
    for key, result in pictures.items():
        with np.load(folder / f"{key}.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["labels"], result.labels)
            np.testing.assert_array_equal(arrays["confidence"], result.confidence)
            np.testing.assert_array_equal(arrays["scores"], result.scores)
            assert tuple(arrays["classes"]) == run.names
            assert arrays["colours"].shape == (len(run.names), 3)


def test_masks(written, results):
    pictures, run = results
    folder = written("masks", pictures, run) / "pictures"
    for key, result in pictures.items():
        seen = np.full(result.labels.shape, np.iinfo(result.labels.dtype).max, np.int64)
        for path in (folder / key).glob("*.png"):
            with Image.open(path) as image:
                assert image.mode == "1"
                assert image.info["Title"] == run.names[int(path.name[:3])]
                seen[np.asarray(image)] = int(path.name[:3])
        np.testing.assert_array_equal(seen, result.labels)
    assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "labelstudio", "cvat", "voc"])
def test_segments_without_names(written, name):
    """Pictures have different numbers of them; the run's classes are the most."""
    results = {
        str(count): result_of(
            blobs(count, classes=count, void=False), [f"segment {i + 1}" for i in range(count)]
        )
        for count in (2, 5, 3)
    }
    folder = written(name, results, run_of(None, segments="auto"))
    about = json.loads((folder / "mdrt.json").read_text())
    assert [e["name"] for e in about["classes"]] == [f"segment {i + 1}" for i in range(5)]
    texts = {
        "coco": "annotations.json", "coco-panoptic": "panoptic.json", "cvat": "annotations.xml",
        "labelstudio": "config.xml", "voc": "labelmap.txt",
    }  # fmt: skip
    assert Path(folder / texts[name]).read_text().count("segment 5") >= 1


def test_fiftyone_by_itself(written):
    """Needs the package and its database, a program that it brings."""
    fo = pytest.importorskip("fiftyone", reason="needs fiftyone")
    results = {key: result_of(blobs(seed)) for seed, key in enumerate(KEYS)}
    folder = written("fiftyone", results)
    try:
        dataset = fo.Dataset.from_dir(
            dataset_type=fo.types.ImageSegmentationDirectory,
            data_path=str(folder / "data"),
            labels_path=str(folder / "labels"),
        )
    except fo.core.config.FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne has no database here: {error}")
    try:
        targets = json.loads((folder / "mask_targets.json").read_text())["mask_targets"]
        dataset.default_mask_targets = {int(value): name for value, name in targets.items()}
        assert len(dataset) == len(KEYS)
        for sample in dataset:
            key = Path(sample.filepath).relative_to(folder / "data").with_suffix("").as_posix()
            labels = results[key].labels
            found = sample.ground_truth.get_mask()
            np.testing.assert_array_equal(found, np.where(labels == 255, 255, labels + 1))
    finally:
        dataset.delete()
