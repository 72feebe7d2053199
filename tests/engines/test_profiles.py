"""Profiles: texts to ranges to shapes, no library needed."""

from __future__ import annotations

import dataclasses

import pytest

from mdrt.export.engines.profiles import complete, input_shapes, parse_profiles
from mdrt.runtime.bundle.contract import Manifest
from mdrt.runtime.bundle.cuts import graph_names
from mdrt.runtime.bundle.loading import load_bundle
from mdrt.runtime.bundle.plan import Range, Shapes
from mdrt.runtime.errors import EngineError
from mdrt.runtime.segmenter import EMBEDDED

GRAPHS = [g for g in graph_names(load_bundle(EMBEDDED).manifest) if g != "unet.encoder.onnx"]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """256 pixels, sides multiples of 64, eight channels at factor 16, 40 tokens."""
    return load_bundle(EMBEDDED).manifest


def test_three_numbers_or_one() -> None:
    ranges = parse_profiles(["batch=1:2:8", "size=512"])
    assert ranges == {"batch": Range(1, 2, 8), "size": Range(512, 512, 512)}
    assert [str(span) for span in ranges.values()] == ["1:2:8", "512"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("width=512", "expected one of batch, size"),
        ("batch", "expected min:opt:max"),
        ("batch=", "expected min:opt:max"),
        ("batch=1:2", "expected min:opt:max"),
        ("batch=1:2:3:4", "expected min:opt:max"),
        ("batch=1:x:4", "expected min:opt:max"),
        ("batch=0:1:4", "1 ≤ min ≤ opt ≤ max"),
        ("batch=2:1:4", "1 ≤ min ≤ opt ≤ max"),
        ("size=64:256:128", "1 ≤ min ≤ opt ≤ max"),
    ],
)
def test_what_is_no_profile(text: str, part: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_profiles([text])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dimension_given_twice() -> None:
    with pytest.raises(EngineError, match="batch is given twice"):
        parse_profiles(["batch=1", "batch=2"])


def test_defaults_come_from_the_manifest(manifest: Manifest) -> None:
    assert complete({}, manifest) == {"batch": Range(1, 1, 4), "size": Range(384, 384, 384)}


@pytest.mark.parametrize("size", [Range(32, 64, 64), Range(64, 100, 128), Range(64, 64, 96)])
def test_a_size_the_model_cannot_take(manifest: Manifest, size: Range) -> None:
    with pytest.raises(EngineError, match="expected multiples of 64 pixels"):
        complete({"size": size}, manifest)


def test_the_shapes_of_every_input(manifest: Manifest) -> None:
    profile = {"batch": Range(1, 2, 4), "size": Range(128, 256, 320)}
    hidden = manifest.texts[0].hidden
    assert {graph: input_shapes(manifest, graph, profile) for graph in GRAPHS} == {
        "vae_encoder.onnx": {"image": Shapes((1, 3, 128, 128), (2, 3, 256, 256), (4, 3, 320, 320))},
        "text_encoder.onnx": {"input_ids": Shapes((1, 40), (2, 40), (4, 40))},
        "keys.onnx": {
            "encoder_hidden_states": Shapes((1, 40, hidden), (2, 40, hidden), (4, 40, hidden))
        },
        "values.onnx": {
            "encoder_hidden_states": Shapes((1, 40, hidden), (2, 40, hidden), (4, 40, hidden))
        },
        "unet.onnx": {
            "sample": Shapes((1, 8, 8, 8), (2, 8, 16, 16), (4, 8, 20, 20)),
            "timestep": Shapes((1,), (2,), (4,)),
            "encoder_hidden_states": Shapes((1, 40, hidden), (2, 40, hidden), (4, 40, hidden)),
        },
    }


def test_sizes_that_are_recommended_are_in_the_default_profile(manifest: Manifest) -> None:
    """A bundle of DINOv2 sees a picture at three sizes, where nothing else is asked for."""
    recommended = {"ncut": {"scales": True}}
    several = dataclasses.replace(manifest, recommended=recommended)
    native, multiple = manifest.image.native_size, manifest.image.size_multiple
    assert complete({}, manifest)["size"] == Range(native, native, native)
    size = complete({}, several)["size"]
    assert size.opt == native
    assert abs(size.min - 0.75 * native) <= multiple / 2
    assert abs(size.max - 1.375 * native) <= multiple / 2
    assert size.min % multiple == size.max % multiple == 0
    asked = {"size": Range(native, native, native)}
    assert complete(asked, several)["size"] == asked["size"]
