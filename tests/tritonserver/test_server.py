"""`mdrt triton` against a real server: what it answers is what `mdrt segment` writes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from running import Server, needs_server, serving

from mdrt.cli import main
from mdrt.runtime.segmenter import EMBEDDED, Segmenter

pytestmark = needs_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VALLEY = EXAMPLES / "valley.png"
NAMES = "sky, mountain, sand, water, house"

STAND_IN = '''"""Runs a graph by ONNX Runtime, where a server has no onnxruntime backend."""
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(folder / GRAPH)

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {}
            for tensor in request.inputs():
                values = tensor.as_numpy()
                feeds[tensor.name()] = values.reshape(-1) if tensor.name() == "timestep" else values
            wanted = list(request.requested_output_names())
            found = self.session.run(wanted, feeds)
            answers.append(utils.InferenceResponse([utils.Tensor(*p) for p in zip(wanted, found)]))
        return answers
'''


def write(repository: Path, *options: str) -> None:
    outcome = CliRunner().invoke(main, ["triton", str(EMBEDDED), str(repository), *options])
    assert outcome.exit_code == 0, outcome.output


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside") / "models"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository, repository.parent, ["mdrt"]) as running:
        yield running


def ask(client: Any, module: Any, pictures: list[bytes], outputs: list[str], **texts: str) -> Any:
    """One request of a picture or several; `texts` are given for each."""
    inputs = []
    for name, values in {
        "image": pictures,
        **{n: [t.encode()] * len(pictures) for n, t in texts.items()},
    }.items():
        tensor = module.InferInput(name, [len(values), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[v] for v in values], dtype=np.object_))
        inputs.append(tensor)
    wanted = [module.InferRequestedOutput(name) for name in outputs]
    return client.infer("mdrt", inputs, outputs=wanted)


def clients(server: Server) -> Iterator[tuple[Any, Any]]:
    import tritonclient.grpc as grpc
    import tritonclient.http as http

    for module, address in ((http, server.http), (grpc, server.grpc)):
        client = module.InferenceServerClient(address)
        yield client, module
        client.close()


def labels_of(answer: Any, row: int = 0) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.as_numpy("labels")[row, 0])))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What `mdrt segment` writes of the same question."""
    out = tmp_path_factory.mktemp("segment")
    asked = ["segment", str(VALLEY), "--classes", NAMES, "--out", str(out), "--quiet"]
    assert CliRunner().invoke(main, asked).exit_code == 0
    return np.asarray(Image.open(out / "valley.png"))


def test_labels_over_http_and_grpc_are_those_of_segment(
    server: Server, segmented: np.ndarray
) -> None:
    for client, module in clients(server):
        answer = ask(client, module, [VALLEY.read_bytes()], ["labels", "record"], classes=NAMES)
        np.testing.assert_array_equal(labels_of(answer), segmented)
        record = json.loads(answer.as_numpy("record")[0, 0])
        assert [c["name"] for c in record["classes"]] == NAMES.split(", ")
        assert answer.as_numpy("overlay") is None  # nobody asked


def test_a_batch_of_pictures_of_two_sizes_without_names(server: Server) -> None:
    pictures = [VALLEY, EXAMPLES / "cottage.png"]
    client, module = next(clients(server))
    answer = ask(client, module, [p.read_bytes() for p in pictures], ["labels"], segments="4")
    with Segmenter() as segmenter:
        for row, picture in enumerate(pictures):
            expected = segmenter(picture, segments=4).labels
            np.testing.assert_array_equal(labels_of(answer, row), expected)


@pytest.mark.parametrize(
    ("picture", "texts", "line"),
    [
        (b"no picture", {}, "no picture that Pillow can read"),
        (None, {"classes": "sky, sky"}, "'sky' is given twice"),
        (None, {"segments": "none"}, "segments is 'none'"),
        (None, {"settings": '{"head": "nonesuch"}'}, "head 'nonesuch' is none of"),
        (None, {"settings": '{"refine": "sharp"}'}, "refine"),
        (None, {"settings": "sharp"}, "settings is no JSON"),
        (None, {"settings": '{"max_size": 9}'}, "max_size"),
    ],
)
def test_a_bad_request_is_one_line_and_the_next_is_answered(
    server: Server, picture: bytes | None, texts: dict[str, str], line: str
) -> None:
    from tritonclient.utils import InferenceServerException

    for client, module in clients(server):
        with pytest.raises(InferenceServerException) as caught:
            ask(client, module, [picture or VALLEY.read_bytes()], ["labels"], **texts)
        message = str(caught.value.message())
        assert line in message
        assert "\n" not in message
        assert "Traceback" not in message
        assert labels_of(ask(client, module, [VALLEY.read_bytes()], ["labels"])).shape == (256, 256)


def test_a_model_that_was_written_anew_is_loaded_anew(server: Server, repository: Path) -> None:
    client, module = next(clients(server))
    picture = [VALLEY.read_bytes()]
    before = json.loads(ask(client, module, picture, ["record"]).as_numpy("record")[0, 0])
    write(repository, "--head", "attention", "--classes", "sky, water")
    client.load_model("mdrt")
    after = json.loads(ask(client, module, picture, ["record"]).as_numpy("record")[0, 0])
    assert before["settings"]["head"] == "maskdiffusion"
    assert after["settings"]["head"] == "attention"
    assert [c["name"] for c in after["classes"]] == ["sky", "water"]
    client.unload_model("mdrt")
    write(repository)
    client.load_model("mdrt")
    assert client.is_model_ready("mdrt")


def test_networks_of_their_own_are_called_by_the_model(
    tmp_path: Path, segmented: np.ndarray
) -> None:
    """The server of the wheel has no onnxruntime backend: ONNX Runtime in the python backend takes
    its place, under the very configuration but for the backend's name."""
    repository = tmp_path / "models"
    write(repository, "--networks", "onnxruntime")
    networks = sorted(p.name for p in repository.iterdir() if p.name.startswith("mdrt_"))
    assert networks == [
        "mdrt_keys",
        "mdrt_text_encoder",
        "mdrt_unet",
        "mdrt_unet_encoder",
        "mdrt_vae_encoder",
        "mdrt_values",
    ]
    for name in networks:
        config = repository / name / "config.pbtxt"
        text = config.read_text().replace('backend: "onnxruntime"', 'backend: "python"')
        # to the python backend that is the name of its code
        graph = re.search(r'default_model_filename: "(.*)"\n', text)
        assert graph is not None
        config.write_text(text.replace(graph[0], ""))
        code = STAND_IN + f"\n\nGRAPH = {graph[1]!r}\n"
        (repository / name / "1" / "model.py").write_text(code)
    with serving(repository, tmp_path, [*networks, "mdrt"]) as running:
        for client, module in clients(running):
            answer = ask(client, module, [VALLEY.read_bytes()], ["labels"], classes=NAMES)
            assert (labels_of(answer) != segmented).mean() < 1e-3  # ONNX Runtime's own operators
