"""A bundle loads no byte that its manifest does not list, whatever ONNX Runtime would."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdrt
from mdrt.runtime.bundle.external import External, find_external
from mdrt.runtime.bundle.loading import load_bundle, record_file, write_manifest
from mdrt.runtime.errors import BundleError
from mdrt.runtime.segmenter import EMBEDDED

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto

FLOAT = TensorProto.FLOAT


def tensor(location: str = "w", dims: tuple[int, ...] = (2, 3), **entries: object) -> Any:
    """A tensor of float32 in another file."""
    made = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def graph(*nodes: object, weights: tuple[Any, ...] = (), sparse: tuple = ()) -> object:
    value = helper.make_tensor_value_info("y", FLOAT, None)
    return helper.make_graph(
        list(nodes), "g", [], [value], list(weights), sparse_initializer=list(sparse)
    )


def constant(**attributes: object) -> object:
    return helper.make_node("Constant", [], ["y"], **attributes)


def branch(inner: object) -> object:
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph())


def function(node: object) -> object:
    model = helper.make_model(graph())
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], opset))
    return model


def training(weight: Any) -> object:
    model = helper.make_model(graph())
    model.training_info.add().initialization.CopyFrom(graph(weights=(weight,)))
    return model


def sparse(weight: Any) -> object:
    indices = helper.make_tensor("i", TensorProto.INT64, (1,), [0])
    return helper.make_sparse_tensor(weight, indices, [8])


PLACES: dict[str, Callable[[Any], object]] = {
    "initializer": lambda w: graph(weights=(w,)),
    "sparse initializer": lambda w: graph(sparse=(sparse(w),)),
    "attribute": lambda w: graph(constant(value=w)),
    "attribute's list": lambda w: graph(helper.make_node("Any", [], ["y"], values=[w])),
    "sparse attribute": lambda w: graph(constant(sparse_value=sparse(w))),
    "subgraph": lambda w: graph(branch(graph(weights=(w,)))),
    "subgraph's list": lambda w: graph(helper.make_node("A", [], [], bs=[graph(weights=(w,))])),
    "deep subgraph": lambda w: graph(branch(graph(branch(graph(constant(value=w)))))),
    "function": lambda w: function(constant(value=w)),
    "function's subgraph": lambda w: function(branch(graph(weights=(w,)))),
    "training": training,
}


def written(path: Path, made: object) -> Path:
    model = made if isinstance(made, onnx.ModelProto) else helper.make_model(made)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_tensor_is_it_is_found(tmp_path: Path, place: str) -> None:
    path = written(tmp_path / "g.onnx", PLACES[place](tensor("../x", offset=8, length=24)))
    assert find_external(path) == {External("../x", 8, 24)}


def test_what_lies_in_the_graph_is_not_found(tmp_path: Path) -> None:
    weight = helper.make_tensor("location", FLOAT, (2,), [1.0, 2.0])
    node = constant(value=weight)
    assert find_external(written(tmp_path / "g.onnx", graph(node, weights=(weight,)))) == set()


@pytest.mark.parametrize(
    ("kind", "size"), [(FLOAT, 24), (TensorProto.FLOAT16, 12), (TensorProto.INT4, 3)]
)
def test_a_tensor_that_gives_no_length_has_its_own(tmp_path: Path, kind: int, size: int) -> None:
    weight = tensor()
    weight.data_type = kind
    path = written(tmp_path / "g.onnx", graph(weights=(weight,)))
    assert find_external(path) == {External("w", 0, size)}


def test_every_type_of_onnx_has_a_size(tmp_path: Path) -> None:
    ir = pytest.importorskip("onnx_ir")
    for kind in TensorProto.DataType.values():
        if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        weight = tensor(dims=(8,))
        weight.data_type = kind
        (found,) = find_external(written(tmp_path / "g.onnx", graph(weights=(weight,))))
        assert found.length == ir.DataType(kind).bitwidth


def without_location() -> Any:
    weight = tensor()
    del weight.external_data[:]
    return weight


def of_strings() -> Any:
    weight = tensor()
    weight.data_type = TensorProto.STRING
    return weight


def twice() -> Any:
    weight = tensor()
    weight.external_data.add(key="location", value="x")
    return weight


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: graph(weights=(without_location(),)), "does not say in which"),
        (lambda: graph(weights=(of_strings(),)), "data type 8"),
        (lambda: graph(weights=(twice(),)), "gives its location twice"),
        (lambda: graph(weights=(tensor(offset=-1),)), "offset is '-1'"),
        (lambda: graph(weights=(tensor(length="1e3"),)), "length is '1e3'"),
        (lambda: graph(weights=(tensor(offset="9" * 50),)), "offset is '999"),
        (lambda: graph(weights=(tensor(dims=(-1, 2)),)), "negative side"),
        (lambda: graph(helper.make_node("EPContext", [], ["y"])), "EPContext"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, made: Callable[[], object], words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        find_external(written(tmp_path / "g.onnx", made()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\x3a", b"\x3a\xff", b"\x3a\x05\x0a", b"\x0b", b"\xff" * 20, b"no graph"],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="no ONNX graph that can be trusted"):
        find_external(path)


def test_depth_is_bounded(tmp_path: Path) -> None:
    def nested(content: bytes) -> bytes:
        """A graph whose one node has a graph for an attribute."""
        for field in (6, 5, 1):  # Attribute.g, Node.attribute, Graph.node
            size, length = len(content), b""
            while size > 0x7F:
                length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
            content = bytes([field << 3 | 2]) + length + bytes([size]) + content
        return content

    content = b"\x2a\x0c\x6a\x0a\x0a\x08location"  # Graph.initializer with external data
    for _ in range(50):
        content = nested(content)
    size = len(content)
    path = tmp_path / "g.onnx"
    path.write_bytes(b"\x3a" + bytes([size & 0x7F | 0x80, size >> 7]) + content)
    with pytest.raises(BundleError, match="nested more than 100 deep"):
        find_external(path)


def external_tensors(message: Any) -> Iterator[str]:
    """The same by protobuf's own reader: every location there is."""
    if isinstance(message, TensorProto):
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from external_tensors(inner)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(sorted(PLACES)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 400),
)
def test_a_damaged_graph_is_refused_or_read_as_protobuf_does(
    tmp_path: Path, place: str, changes: list[tuple[int, int]], cut: int
) -> None:
    path = written(tmp_path / "g.onnx", PLACES[place](tensor("../x", offset=8, length=24)))
    content = bytearray(path.read_bytes())
    for index, byte in changes:
        content[index % len(content)] = byte
    content = content[: -cut % len(content) or None] if cut else content
    path.write_bytes(content)
    try:
        found = {external.location for external in find_external(path)}
    except BundleError:
        return
    try:
        model = onnx.ModelProto.FromString(bytes(content))
    except Exception:  # protobuf's own error, which it names differently by version
        return
    assert set(external_tensors(model)) <= found


# --- bundles ------------------------------------------------------------------------------------


def seal(bundle: Path, *added: str) -> None:
    """Write the manifest that an exporter of these files would."""
    manifest = load_bundle(EMBEDDED).manifest
    files = {name: record_file(bundle / name) for name in (*manifest.files, *added)}
    write_manifest(bundle, dataclasses.replace(manifest, files=files))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The embedded model, its UNet's weights in a file of their own as large ones are."""
    folder = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    model = onnx.load(folder / "unet.onnx")
    data = "unet.onnx.data"
    onnx.save(model, folder / "unet.onnx", save_as_external_data=True, location=data)
    seal(folder, data)
    return folder


def redirect(bundle: Path, key: str, value: str) -> None:
    """Change where the UNet's first weight lies, as an exporter with bad intentions would."""
    model = onnx.load(bundle / "unet.onnx", load_external_data=False)
    weight = next(w for w in model.graph.initializer if w.external_data)
    for entry in weight.external_data:
        if entry.key == key:
            entry.value = value
    (bundle / "unet.onnx").write_bytes(model.SerializeToString())
    seal(bundle, "unet.onnx.data")


def refusal(bundle: Path) -> str:
    """Why a bundle is refused, hashed or not."""
    texts = []
    for verify in (True, False):
        with pytest.raises(BundleError) as caught:
            load_bundle(bundle, verify)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "\n" not in texts[0]
    return texts[0]


def test_weights_that_are_listed_are_loaded(bundle: Path) -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    found = mdrt.Segmenter(bundle)(picture, ["sky", "sand"])
    expected = mdrt.Segmenter()(picture, ["sky", "sand"])
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("kind", ["parent", "absolute", "unlisted", "link", "dot"])
def test_weights_that_are_not_listed(bundle: Path, kind: str) -> None:
    data = bundle / "unet.onnx.data"
    shutil.copy(data, bundle.parent / "x")
    location = {
        "parent": "../x",
        "absolute": str(bundle.parent / "x"),
        "unlisted": "other.data",
        "link": "other.data",
        "dot": "./unet.onnx.data",
    }[kind]
    if kind == "unlisted":
        shutil.copy(data, bundle / "other.data")
    elif kind == "link":
        (bundle / "other.data").symlink_to(bundle.parent / "x")
    redirect(bundle, "location", location)
    assert f"loads weights from {location!r}, which manifest.json does not list" in refusal(bundle)


@pytest.mark.parametrize("key", ["offset", "length"])
def test_weights_beyond_their_file(bundle: Path, key: str) -> None:
    size = (bundle / "unet.onnx.data").stat().st_size
    redirect(bundle, key, str(size + 1))
    assert f"of unet.onnx.data, which has {size}" in refusal(bundle)


def test_weights_of_another_size(bundle: Path) -> None:
    with (bundle / "unet.onnx.data").open("ab") as file:
        file.write(b"\0")
    assert "bytes, expected" in refusal(bundle)


@pytest.mark.parametrize("name", ["unet.onnx", "unet.onnx.data", "noise.npy", "tokenizer"])
def test_links_out_of_the_bundle(bundle: Path, name: str) -> None:
    """As a hub's cache has them."""
    shutil.move(bundle / name, bundle.parent / "blob")
    (bundle / name).symlink_to("../blob")
    text = refusal(bundle)
    assert "outside the bundle" in text
    assert "cp -rL" in text
    copied = shutil.copytree(bundle, bundle.parent / "copy")  # follows links, as the remedy does
    load_bundle(copied)


def test_links_within_a_bundle_and_to_it(bundle: Path) -> None:
    (bundle / "noise.npy").rename(bundle / "blob")
    (bundle / "noise.npy").symlink_to("blob")
    (bundle.parent / "link").symlink_to(bundle)
    assert load_bundle(bundle.parent / "link").noise().size


def test_a_link_to_itself(bundle: Path) -> None:
    (bundle / "noise.npy").unlink()
    (bundle / "noise.npy").symlink_to("noise.npy")
    assert "noise.npy" in refusal(bundle)


def test_what_changed_since_it_was_checked_is_not_used(bundle: Path) -> None:
    opened = load_bundle(bundle)
    os.utime(bundle / "noise.npy")  # the same content is looked at again, and is right
    assert opened.noise().size
    np.save(bundle / "noise.npy", opened.noise() + 1)
    with pytest.raises(BundleError, match=r"noise\.npy has SHA-256"):
        opened.noise()


def test_what_changes_while_it_is_read_is_not_used(bundle: Path) -> None:
    opened = load_bundle(bundle)
    noise = opened.noise()
    with pytest.raises(BundleError, match="changed while it was read"), opened.held():
        np.save(bundle / "noise.npy", noise)  # the same bytes, but who knows which were read
    shutil.copytree(EMBEDDED, bundle.parent / "newer")
    with pytest.raises(BundleError, match="changed while it was read"), opened.held():
        bundle.rename(bundle.parent / "old")
