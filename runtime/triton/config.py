"""What a model repository says of each of its models: config.pbtxt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..bundle import contract
from ..bundle.contract import Manifest
from ..look.axes import Shape, graph_axes

MODEL: Final = "mdrt"
"""The model that clients ask; those of its networks are called after it."""

BATCH: Final = 8
"""Requests, or rows of a network, that are run together."""

DELAY: Final = 2000
"""Microseconds that a network's row waits for others."""

WHOLE: Final = (contract.INPUT_IDS, contract.TIMESTEP)
"""Tensors of int64; all others are float32."""


class Word(str):
    """A value that stands without quotes: one of an enumeration."""


def asked_config(
    settings: Mapping[str, str], instances: int, calls: Sequence[str], warmup: Sequence[str]
) -> str:
    """Of the model that clients ask.

    Args:
        settings: parameters that it is told when it is loaded.
        instances: how many of it run at once.
        calls: models of networks that it calls.
        warmup: inputs that are sent through it first, each from the file of its name.
    """
    text = {"data_type": Word("TYPE_STRING"), "dims": [1]}
    return pbtxt(
        {
            "name": MODEL,
            "backend": "python",
            "max_batch_size": BATCH,
            "input": [
                {"name": "image", **text},
                {"name": "classes", **text, "optional": True},
                {"name": "segments", **text, "optional": True},
                {"name": "settings", **text, "optional": True},
            ],
            "output": [{"name": name, **text} for name in ("labels", "overlay", "record")],
            "instance_group": [{"count": instances, "kind": Word("KIND_CPU")}],
            "dynamic_batching": {},
            "parameters": [
                {"key": key, "value": {"string_value": value}}
                for key, value in {**settings, "networks": json.dumps(list(calls))}.items()
            ],
            # what it calls may be loaded after it
            "model_warmup": []
            if calls
            else [
                {
                    "name": "a picture",
                    "batch_size": 1,
                    "inputs": [
                        {"key": name, "value": {**text, "input_data_file": name}} for name in warmup
                    ],
                }
            ],
        }
    )


def network_config(
    manifest: Manifest, graph: str, file: str, backend: str, batch: int, kind: str
) -> str:
    """Of the model of one graph.

    Args:
        graph: its name in the contract.
        file: that its backend loads.
        backend: "onnxruntime" or "tensorrt".
        batch: the most rows that it takes.
        kind: where its instance runs, of Triton's KIND_….
    """
    fed, given = graph_axes(manifest, graph)
    ran = {"platform": "tensorrt_plan"} if backend == "tensorrt" else {"backend": backend}
    profile = {"profile": ["0"]} if backend == "tensorrt" else {}
    return pbtxt(
        {
            "name": network_name(graph),
            **ran,
            "default_model_filename": file,
            "max_batch_size": batch,
            "input": [_tensor(name, shape) for name, shape in fed.items()],
            "output": [_tensor(name, shape) for name, shape in given.items()],
            "instance_group": [{"count": 1, "kind": Word(kind), **profile}],
            "dynamic_batching": {"max_queue_delay_microseconds": DELAY},
            "model_warmup": [
                {
                    "name": "zeros",
                    "batch_size": 1,
                    "inputs": [
                        {
                            "key": name,
                            "value": {
                                "data_type": _type(name),
                                "dims": _sides(manifest, name, shape),
                                "zero_data": True,
                            },
                        }
                        for name, shape in fed.items()
                    ],
                }
            ],
        }
    )


def network_name(graph: str) -> str:
    """The model of a graph."""
    return f"{MODEL}_{graph.removesuffix('.onnx').replace('.', '_')}"


def dtype(name: str) -> type[np.generic]:
    """Of a tensor of the contract."""
    return np.int64 if name in WHOLE else np.float32


def pbtxt(message: Mapping[str, Any]) -> str:
    """A message in protobuf's text format."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in message.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key} {{", *_lines(value, indent + "  "), f"{indent}}}"]
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            for one in value:
                lines += [f"{indent}{key} {{", *_lines(one, indent + "  "), f"{indent}}}"]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: [{', '.join(map(_scalar, value))}]")
        else:
            lines.append(f"{indent}{key}: {_scalar(value)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not isinstance(value, Word):
        return json.dumps(value, ensure_ascii=True) if value.isascii() else _escaped(value)
    return str(value)


def _escaped(value: str) -> str:
    """A text of more than ASCII, by the bytes of its UTF-8: JSON's escapes are not protobuf's."""
    shown = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in value.encode())
    return f'"{"".join(shown)}"'


def _type(name: str) -> Word:
    return Word("TYPE_INT64" if name in WHOLE else "TYPE_FP32")


def _tensor(name: str, shape: Shape) -> dict[str, Any]:
    """One that is batched along its first axis; a number a row is sent as (rows, 1)."""
    dims = [-1 if side is None else side for side in shape[1:]]
    told: dict[str, Any] = {"name": name, "data_type": _type(name), "dims": dims or [1]}
    return told if dims else told | {"reshape": {"shape": []}}


def _sides(manifest: Manifest, name: str, shape: Shape) -> list[int]:
    """What a tensor's sides are for a picture of the native size."""
    cells = manifest.image.native_size
    if name == contract.SAMPLE:
        cells //= manifest.factor
    return [cells if side is None else side for side in shape[1:]] or [1]
