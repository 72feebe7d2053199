"""A vision transformer that is an ONNX file already: its tokens as a map, by the contract's names.

What it is follows from the file: the patch is the stride of the convolution that reads the picture,
and what comes before the patches (a class token, registers) is what two runs have beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ....runtime.bundle import contract
from ....runtime.errors import ExportError
from ....runtime.sessions.ort import OrtSession
from ...graphs import GraphFile
from ...options import ExportOptions
from ...patterns import attributes_of
from ...proof import Case, Example
from ...refusal import refusing
from ..base import TextPart
from .selection import IMAGENET, NETWORK, OF_DINO, Selection, check_options

_TRIED: Final = ((2, 3), (5, 4))  # patches along both sides
_NATIVE: Final = 512  # pixels a side, or the next multiple of a patch: DINOv2's own 518


@dataclass(frozen=True)
class TokensFile:
    """An ONNX file that gives tokens of pictures.

    `image` and `tokens` are its own names of (batch, 3, H, W) and (batch, prefix + patches,
    channels) float32.
    """

    path: Path
    image: str
    tokens: str
    patch: int
    prefix: int
    channels: int

    def run(self, pictures: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """What the file as it is gives for pictures, as maps (batch, channels, rows, columns)."""
        maps = []
        with OrtSession(self.path) as session:
            for image in pictures:
                found = session.infer({self.image: image}, [self.tokens])[self.tokens]
                grid = (image.shape[2] // self.patch, image.shape[3] // self.patch)
                patches = found[:, self.prefix :].transpose(0, 2, 1)
                maps.append(patches.reshape(len(image), self.channels, *grid))
        return maps


class OnnxViT:
    """An ONNX file with a vision transformer that sees pictures as DINOv2 does; PyTorch has no part
    in it, and the proof is against the file itself."""

    latent: contract.LatentSpec | None = None
    noise: contract.NoiseSpec | None = None
    texts: Sequence[TextPart] = ()
    recommended: Mapping[str, Mapping[str, Any]] = OF_DINO

    def __init__(self, path: Path, options: ExportOptions) -> None:
        """Find out what the file takes and gives.

        Raises:
            ExportError: it is no vision transformer, or an option is of other models.
        """
        check_options(options)
        for name in ("precision", "weights", "opset"):
            if getattr(options, name) != getattr(ExportOptions(), name):
                raise ExportError(
                    f"{path} is an ONNX file and stays as it is: it takes no {name}; leave it out"
                )
        self.source, self.model_id = open_file(path), path.stem
        patch = self.source.patch
        self.image = contract.ImageSpec(*IMAGENET, -(-_NATIVE // patch) * patch, patch)
        features = contract.features_name(patch)
        output = contract.FeatureOutput(features, patch, self.source.channels)
        self.selection = Selection((output,))

    def vae(self) -> Any:
        """There is none.

        Raises:
            ExportError: always.
        """
        raise ExportError(f"{self.model_id} sees pixels and has no VAE")

    def network(self) -> Any:
        """Nothing that PyTorch would load."""
        return torch.nn.Module()

    def examples(self, _network: Any, cases: Sequence[Case]) -> dict[str, list[Example]]:
        """Random pictures, and what the file as it is makes of them."""
        random = np.random.default_rng(0)
        sizes = [(case.batch, 3, case.height, case.width) for case in cases]
        pictures = [random.standard_normal(size, dtype=np.float32) for size in sizes]
        name = self.selection.features[0].name
        found = zip(pictures, self.source.run(pictures), strict=True)
        return {NETWORK: [Example({contract.IMAGE: one}, {name: maps}) for one, maps in found]}

    @contextmanager
    def graphs(
        self, _network: Any, _dtype: torch.dtype
    ) -> Iterator[Sequence[Callable[[], GraphFile]]]:
        """The one graph."""
        write = partial(write_map, self.source, name=self.selection.features[0].name)
        yield (lambda: GraphFile(NETWORK, write),)


def open_file(path: Path) -> TokensFile:
    """Find out what a file takes and gives.

    Raises:
        ExportError: it cannot be run, or is no vision transformer over pictures of any size.
    """
    if not path.is_file():
        raise ExportError(f"{path} does not exist; expected an ONNX file")
    with refusing(f"ONNX Runtime cannot run {path}"), OrtSession(path) as session:
        patch = _patch(path)
        pictures = {n: s for n, s in session.inputs.items() if len(s.shape) == 4}
        name = next(iter(pictures), "")
        expected = "one input (batch, 3, height, width) float32 of any height and width"
        if len(session.inputs) != 1 or not name:
            raise ExportError(f"{path} takes {list(session.inputs)}, expected {expected}")
        taken = pictures[name]
        if taken.dtype != np.float32 or taken.shape[1] != 3 or taken.shape[2:] != (None, None):
            raise ExportError(f"{path} takes {name} as {taken.shape}, expected {expected}")
        prefixes, found = set(), (0, 0, 0)
        output = next(iter(session.outputs))
        for rows, columns in _TRIED:
            image = np.zeros((1, 3, rows * patch, columns * patch), np.float32)
            found = session.infer({name: image}, [output])[output].shape
            if len(found) != 3:
                break
            prefixes.add(found[1] - rows * columns)
    if len(found) != 3 or len(prefixes) != 1 or min(prefixes) < 0:
        raise ExportError(
            f"{path} gives {output} as {found} for {rows}×{columns} patches, expected tokens "
            "(batch, patches and a fixed number before them, channels)"
        )
    return TokensFile(path, name, output, patch, prefixes.pop(), found[2])


def write_map(source: TokensFile, target: Path, name: str) -> None:
    """Write the same graph with its patches as a map `name` (batch, channels, H/patch, W/patch) and
    its input under the contract's name; its weights beside it."""
    model = ir.load(source.path)
    graph = model.graph
    image, tokens = graph.inputs[0], next(v for v in graph.outputs if v.name == source.tokens)

    def add(kind: str, inputs: Sequence[Any], **attributes: Any) -> Any:
        node = ir.node(kind, inputs, attributes)
        graph.append(node)
        return node.outputs[0]

    def constant(*values: int) -> Any:
        return add("Constant", [], value=ir.tensor(np.array(values, dtype=np.int64)))

    patches = add("Slice", [tokens, constant(source.prefix), constant(2**31 - 1), constant(1)])
    patches = add("Transpose", [patches], perm=[0, 2, 1])
    sides = add("Slice", [add("Shape", [image]), constant(2), constant(4)])
    grid = add("Div", [sides, constant(source.patch)])
    size = add("Concat", [constant(0, source.channels), grid], axis=0)
    found = add("Reshape", [patches, size])
    found.name, found.type = name, ir.TensorType(ir.DataType.FLOAT)
    found.shape = ir.Shape(["batch", source.channels, "rows", "columns"])
    graph.outputs.clear()
    graph.outputs.append(found)
    image.name = contract.IMAGE
    ir.save(model, target, external_data=contract.weights_name(target.name))


def _patch(path: Path) -> int:
    """The stride of the convolution over the picture.

    Raises:
        ExportError: there is none whose stride is its kernel's size, the same along both sides.
    """
    first = next((n for n in ir.load(path).graph.all_nodes() if n.op_type == "Conv"), None)
    if first is not None and first.inputs[1] is not None:
        own = attributes_of(first)
        strides = list(own.get("strides", ()))
        kernel = list(own.get("kernel_shape") or tuple(first.inputs[1].shape or ())[2:])
        if len(strides) == 2 and strides == kernel and strides[0] == strides[1] > 1:
            return int(strides[0])
    raise ExportError(
        f"{path} does not begin by cutting pictures into patches, by a convolution whose stride is "
        "its kernel's size; expected a vision transformer, or give a model's directory or hub id"
    )
