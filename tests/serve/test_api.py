"""The HTTP API: what is answered is what `mdrt segment` makes, and what is wrong is said."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

import mdrt
from mdrt.runtime.heads import HEADS
from mdrt.runtime.serve.answers import FORMATS
from mdrt.runtime.serve.workers import Workers

NAMES = ["sky", "grass", "tree"]


def form(picture: bytes, name: str = "scene.png", **fields: Any) -> dict[str, Any]:
    return {"files": {"image": (name, picture)}, "data": fields}


def test_an_answer_is_the_record_that_python_gives(
    client: TestClient, png: bytes, segmenter: mdrt.Segmenter
) -> None:
    got = client.post("/v1/segment", **form(png, classes="sky, grass, tree"))
    assert got.status_code == 200, got.text
    record, expected = got.json(), segmenter(png, NAMES, max_size=512).record()
    for key in ("size", "model", "bundle", "classes", "void", "settings"):
        assert record[key] == json.loads(json.dumps(expected[key])), key
    assert record["image"] == "scene.png"
    assert record["unknown"] == []


@pytest.mark.parametrize("way", ["form", "json", "data uri", "body and query"])
def test_every_way_to_send_a_picture_gives_the_same(
    client: TestClient, png: bytes, way: str
) -> None:
    text = base64.b64encode(png).decode()
    request: dict[str, Any] = {
        "form": form(png, classes=json.dumps(NAMES)),
        "json": {"json": {"image": text, "classes": NAMES}},
        "data uri": {"json": {"image": f"data:image/png;base64,{text}", "classes": NAMES}},
        "body and query": {
            "content": png,
            "headers": {"Content-Type": "image/png"},
            "params": {"classes": ",".join(NAMES)},
        },
    }[way]
    got = client.post("/v1/segment", **request)
    assert got.status_code == 200, got.text
    plain = client.post("/v1/segment", **form(png, classes="sky,grass,tree")).json()
    assert got.json()["classes"] == plain["classes"]


def test_labels_and_overlay_are_the_pictures_that_python_gives(
    client: TestClient, png: bytes, segmenter: mdrt.Segmenter
) -> None:
    result = segmenter(png, NAMES, max_size=512)
    got = client.post("/v1/segment", **form(png, classes="sky,grass,tree", format="png"))
    assert got.headers["content-type"] == "image/png"
    assert "scene.png" in got.headers["content-disposition"]
    assert (np.asarray(Image.open(io.BytesIO(got.content))) == result.labels).all()
    got = client.post("/v1/segment", **form(png, classes="sky,grass,tree", format="overlay"))
    overlay = np.asarray(Image.open(io.BytesIO(got.content)))
    assert (overlay == np.asarray(result.overlay())).all()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"json", "png", "overlay"}))
def test_every_format_can_be_had_of_one_picture_and_of_two(
    client: TestClient, png: bytes, other_png: bytes, name: str
) -> None:
    fields = {"classes": "sky,grass", "format": name}
    one = client.post("/v1/segment", **form(png, **fields))
    assert one.status_code == 200, one.text
    assert len(one.content) > 100
    two = client.post(
        "/v1/segment",
        files=[("image", ("a.png", png)), ("image", ("a.png", other_png))],
        data=fields,
    )
    assert two.status_code == 200, two.text
    if name in ("coco", "cvat"):  # one file of the whole request
        assert two.text.count("a.png") + two.text.count("a-2") >= 2
        return
    names = zipfile.ZipFile(io.BytesIO(two.content)).namelist()
    assert "mdrt.json" in names
    assert len(names) == len(set(names)) > 2


def test_several_pictures_have_an_answer_each_and_a_bad_one_costs_no_other(
    client: TestClient, png: bytes
) -> None:
    files = [("image", ("a.png", png)), ("image", ("b.png", b"no picture"))]
    got = client.post("/v1/segment", files=files, data={"classes": "sky,grass"})
    assert got.status_code == 200
    first, second = got.json()["results"]
    assert first["image"] == "a.png"
    assert first["classes"]
    assert second["image"] == "b.png"
    assert "no picture" in second["error"]
    got = client.post("/v1/segment", files=files, data={"classes": "sky,grass", "format": "png"})
    archive = zipfile.ZipFile(io.BytesIO(got.content))
    assert set(archive.namelist()) == {"a.png", "mdrt.json", "errors.json"}
    assert json.loads(archive.read("errors.json"))[0]["image"] == "b.png"


def test_a_look_is_asked_again_without_its_picture(
    client: TestClient, workers: Workers, png: bytes
) -> None:
    opened = client.post("/v1/looks", files={"image": ("scene.png", png)})
    assert opened.status_code == 201, opened.text
    look = opened.json()["look"]
    assert client.post("/v1/looks", files={"image": ("other.png", png)}).json()["look"] == look
    path = f"/v1/looks/{look}/segment"
    settings = {"words": "late"}
    first = client.post(path, json={"classes": ["sky", "grass"], "settings": settings}).json()
    again = client.post(path, json={"classes": ["sky", "tree"], "settings": settings}).json()
    assert {"vae", "unet"} & set(again["seconds"]) == set()
    assert first["look"] == again["look"] == look
    assert [c["name"] for c in again["classes"]] == ["sky", "tree"]
    assert client.post(path, json={"segments": 3}).json()["settings"]["head"] == "spectral"
    assert client.delete(f"/v1/looks/{look}").status_code == 204
    gone = client.post(path, json={"classes": ["sky"]})
    assert gone.status_code == 404
    assert "post the picture again" in gone.json()["error"]


def test_a_view_holds_labels_and_confidences(
    client: TestClient, png: bytes, segmenter: mdrt.Segmenter
) -> None:
    record = client.post("/v1/segment", **form(png, classes="sky,grass,tree", view="256")).json()
    view = np.asarray(Image.open(io.BytesIO(base64.b64decode(record["view"]["png"]))))
    result = segmenter(png, NAMES, max_size=512)
    assert (view[..., 0] == result.labels).all()
    assert (view[..., 1] == 0).all()
    low, high = record["view"]["low"], record["view"]["high"]
    found = low + view[..., 2] / 255 * (high - low)
    assert np.abs(found - result.confidence).max() <= (high - low) / 500


def test_void_is_void_in_a_view(client: TestClient, png: bytes) -> None:
    asked = form(png, classes="sky,grass", settings='{"threshold": "0.7"}', view="64")
    record = client.post("/v1/segment", **asked).json()
    assert record["void"] > 0
    view = np.asarray(Image.open(io.BytesIO(base64.b64decode(record["view"]["png"]))))
    assert ((view[..., 0] == 255) == (view[..., 1] == 255)).all()
    assert (view[..., 0] == 255).any()


def test_synonyms_background_and_unknown_names(client: TestClient, png: bytes) -> None:
    fields = {"classes": [["sky", "cloud"], "grass", "giraffe"], "background": "grass"}
    image = base64.b64encode(png).decode()
    record = client.post("/v1/segment", json={"image": image, **fields}).json()
    assert [c["name"] for c in record["classes"]] == ["sky", "grass", "giraffe"]
    assert record["unknown"] == ["giraffe"]
    assert record["background"] == "grass"
    assert record["classes"][1]["colour"] == "#000000"


def test_heads_and_model_are_told(client: TestClient) -> None:
    heads = client.get("/v1/heads").json()
    assert [head["name"] for head in heads] == list(HEADS)
    assert all(entry["help"] for head in heads for entry in head["settings"])
    model = client.get("/v1/model").json()
    assert model["formats"] == dict(FORMATS)
    assert model["limits"]["pictures"] == 4


@pytest.mark.parametrize(
    ("status", "fields", "said"),
    [
        (400, {"clases": "sky"}, "'clases' is none of"),
        (400, {"classes": "sky", "segments": "3"}, "both given"),
        (400, {"classes": "sky", "format": "jpeg2000"}, "expected one of json"),
        (400, {"classes": '["sky"'}, "classes is no JSON"),
        (400, {"classes": '[["sky", 3]]'}, "a list of synonyms"),
        (400, {"classes": "sky", "settings": "[1]"}, "settings is list"),
        (400, {"classes": "sky", "max_size": "99999"}, "from 1 to 512"),
        (400, {"classes": "sky", "background": "sea"}, "one of the classes"),
        (413, {"classes": ",".join(f"n{i}" for i in range(21))}, "at most 20"),
        (413, {"classes": "s" * 41}, "41 characters"),
        (422, {"classes": "sky", "head": "maskdifusion"}, "did you mean maskdiffusion?"),
        (422, {"classes": "sky", "settings": '{"treshold": 1}'}, "did you mean threshold?"),
        (422, {"classes": "sky", "settings": '{"timestep": 5000}'}, "expected 0 to 999"),
        (422, {"classes": "sky,sky"}, "twice"),
        (422, {"segments": "99999"}, "segments is 99999"),
        (422, {"classes": "sky", "head": "spectral"}, "takes no names"),
    ],
)
def test_a_wrong_question_is_one_line(
    client: TestClient, png: bytes, status: int, fields: dict[str, str], said: str
) -> None:
    got = client.post("/v1/segment", **form(png, **fields))
    assert got.status_code == status, got.text
    (line,) = got.json().values()
    assert said in line
    assert "\n" not in line
    assert "Traceback" not in line


def test_only_pictures_are_read_never_a_path_or_an_address(
    client: TestClient, picture_file: Any
) -> None:
    for value in (str(picture_file), f"file://{picture_file}", "http://127.0.0.1:1/a.png"):
        for image in (value, {"data": value}):
            got = client.post("/v1/segment", json={"image": image, "classes": ["sky"]})
            assert got.status_code == 400
            assert "never read from a path or an address" in got.json()["error"]
    got = client.post("/v1/segment", data={"image": str(picture_file), "classes": "sky"})
    assert got.status_code in (400, 415)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no picture that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that is read here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "picture"),
    ],
)
def test_what_is_no_picture_is_refused(client: TestClient, data: bytes, said: str) -> None:
    got = client.post("/v1/segment", **form(data, classes="sky"))
    assert got.status_code == 422
    assert said in got.json()["error"]


def test_a_truncated_picture_is_refused(client: TestClient, png: bytes) -> None:
    got = client.post("/v1/segment", **form(png[: len(png) // 2], classes="sky"))
    assert got.status_code == 422
    assert "damaged" in got.json()["error"]


def test_a_picture_of_too_many_pixels_is_not_decoded(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, format="PNG")
    header = b"IHDR" + struct.pack(">II", 40_000, 30_000) + file.getvalue()[24:29]
    bomb = file.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header))
    got = client.post("/v1/segment", **form(bomb + file.getvalue()[33:], classes="sky"))
    assert got.status_code == 422
    assert "too large" in got.json()["error"]
    small = io.BytesIO()
    Image.new("1", (1100, 1000)).save(small, format="PNG")
    got = client.post("/v1/segment", **form(small.getvalue(), classes="sky"))
    assert "1,000,000" in got.json()["error"]


def test_too_many_pictures_are_refused(client: TestClient, png: bytes) -> None:
    files = [("image", (f"{i}.png", png)) for i in range(5)]
    got = client.post("/v1/segment", files=files, data={"classes": "sky"})
    assert got.status_code in (400, 413)
    assert "4" in got.json()["error"]
    images = [base64.b64encode(png).decode()] * 5
    got = client.post("/v1/segment", json={"images": images, "classes": ["sky"]})
    assert got.status_code == 413


def test_the_description_is_openapi_and_names_every_route(client: TestClient) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    found = client.get("/openapi.json").json()
    validator.validate(found)
    told = {path.replace("{look}", "x") for path in found["paths"]}
    for path in told:
        assert client.options(path).status_code in (200, 405)
    enum = found["paths"]["/v1/segment"]["post"]["requestBody"]["content"]["application/json"]
    assert enum["schema"]["properties"]["format"]["enum"] == list(FORMATS)


def test_metrics_are_what_prometheus_reads(client: TestClient, png: bytes) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client.post("/v1/segment", **form(png, classes="sky,grass"))
    client.get("/v1/looks/none/segment")
    got = client.get("/metrics")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(got.text)
        for sample in family.samples
    }
    assert found[("mdrt_requests_total", ("route", "/v1/segment"), ("status", "200"))] >= 1
    assert found[("mdrt_workers",)] == 1
    assert found[("mdrt_looks_bytes",)] > 0
    assert found[("mdrt_stage_seconds_total", ("stage", "assign"))] > 0


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "UP"
    assert client.get("/ready").json() == {"status": "ready"}


def test_scores_that_would_take_too_much_memory_are_refused(
    client: TestClient, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, png: bytes
) -> None:
    monkeypatch.setattr("mdrt.runtime.serve.answers.MOST_SCORES", 1 << 18)
    got = client.post("/v1/segment", **form(png, classes="sky,grass", format="npz"))
    assert got.status_code == 413
    assert "fewer names" in got.json()["error"]
