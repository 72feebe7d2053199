"""A graph run by PyTorch, node by node: a GPU's network where neither ONNX Runtime nor TensorRT is.

Slower than either, and of no use but to see a picture go all the way through on a GPU: it knows the
operators of the embedded model's graphs and says so of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from ....kernels import Array
from ....runtime.errors import BundleError
from ....runtime.sessions.base import Session, TensorSpec
from ....runtime.sessions.device import Device, Gpu

_DTYPES: Final[Mapping[int, torch.dtype]] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool,
}
_HOST: Final[Mapping[torch.dtype, type[np.generic]]] = {
    torch.float32: np.float32,
    torch.int64: np.int64,
}

Operator = Callable[..., Any]


class TorchSession(Session):
    """A graph on PyTorch, on the device's own stream."""

    def __init__(self, path: Path, device: Device) -> None:
        """Load a graph.

        Args:
            path: the `.onnx` file; external data is found beside it.
            device: where its arrays live.

        Raises:
            BundleError: the graph has an operator this knows nothing of.
        """
        super().__init__(path, device)
        self._place = torch.device("cuda" if isinstance(device, Gpu) else "cpu")
        graph = onnx.load(path).graph
        unknown = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if unknown:
            raise BundleError(f"{path.name} has {', '.join(unknown)}, which PyTorch is not told")
        self._nodes = list(graph.node)
        self._attributes = [
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            for node in self._nodes
        ]
        self._constants = {
            tensor.name: _constant(tensor, self._place) for tensor in graph.initializer
        }
        self._uses = _last_uses(self._nodes)
        self.inputs = {value.name: _spec(value) for value in graph.input}
        self.outputs = {value.name: _spec(value) for value in graph.output}

    def _compute(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        with self._active():
            values = self._constants | {
                name: torch.from_dlpack(self.device.xp.ascontiguousarray(array))
                for name, array in feeds.items()
            }
            for index, (node, attributes) in enumerate(
                zip(self._nodes, self._attributes, strict=True)
            ):
                arguments = [values[name] if name else None for name in node.input]
                found = OPERATORS[node.op_type](*arguments, **attributes)
                found = found if isinstance(found, tuple) else (found,)
                values.update(zip(node.output, found, strict=False))
                for name in self._uses[index] - self.outputs.keys():
                    values.pop(name, None)
            return [self.device.xp.from_dlpack(values[name].contiguous()) for name in names]

    @contextmanager
    def _active(self) -> Iterator[None]:
        with torch.no_grad():
            if not isinstance(self.device, Gpu):
                yield
                return
            stream = torch.cuda.ExternalStream(self.device.stream.ptr)
            # float32 is float32: by default convolutions keep ten bits of the mantissa
            exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
            with torch.cuda.stream(stream), exact:
                yield


def _constant(tensor: Any, place: torch.device) -> torch.Tensor:
    value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    # Integers are sides and axes, which the host reads; indices follow their table.
    return value.to(place) if value.is_floating_point() else value


def _last_uses(nodes: Sequence[Any]) -> list[set[str]]:
    """By node: the values that nothing after it reads."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last |= dict.fromkeys(node.input, index)
    uses: list[set[str]] = [set() for _ in nodes]
    for name, index in last.items():
        uses[index].add(name)
    return uses


def _spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(_HOST[_DTYPES[kind.elem_type]], shape)


def _reshape(x: torch.Tensor, shape: torch.Tensor, allowzero: int = 0) -> torch.Tensor:
    sides = shape.tolist()
    if not allowzero:
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _slice(
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    along = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    cut: list[slice] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), by, strict=True):
        n = x.shape[axis]  # ends of "all the rest" are the largest integer there is
        cut[axis] = slice(max(min(start, n), -n), max(min(end, n), -n), step)
    return x[tuple(cut)]


def _shape(x: torch.Tensor, start: int = 0, end: int | None = None) -> torch.Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)  # on the host: it is arithmetic


def _convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **a: Any
) -> torch.Tensor:
    before, after = a["pads"][: x.ndim - 2], a["pads"][x.ndim - 2 :]
    if before != after:
        x = F.pad(x, [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair])
        before = [0] * len(before)
    return F.conv2d(x, weight, bias, a["strides"], before, a["dilations"], a["group"])


def _product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, **options: Any) -> torch.Tensor:
    a = a.T if options.get("transA") else a
    b = b.T if options.get("transB") else b
    return options["alpha"] * (a @ b) + options["beta"] * c


def _resize(x: torch.Tensor, _region: Any, scales: torch.Tensor, **options: Any) -> torch.Tensor:
    assert options["mode"] == b"nearest"
    assert options["nearest_mode"] == b"floor"
    return F.interpolate(x, scale_factor=scales[2:].tolist(), mode="nearest")


def _binary(compute: Operator) -> Operator:
    """Of two arrays, or of an array and a number of the host."""

    def apply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.device != b.device:
            place = a.device if a.device.type != "cpu" else b.device
            a, b = a.to(place), b.to(place)
        found: torch.Tensor = compute(a, b)
        return found

    return apply


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _gather(x: torch.Tensor, indices: torch.Tensor, axis: int = 0) -> torch.Tensor:
    found = x.index_select(axis, indices.to(x.device).flatten())
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _squeeze(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def _unsqueeze(x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


OPERATORS: Final[Mapping[str, Operator]] = {
    "Add": _binary(torch.add),
    "Cast": lambda x, to: x.to(_DTYPES[to]),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _convolution,
    "Cos": torch.cos,
    "Div": _binary(_divide),
    "Gather": _gather,
    "Gelu": lambda x, approximate=b"none": F.gelu(x, approximate=approximate.decode()),
    "Gemm": _product,
    "InstanceNormalization": lambda x, scale, bias, epsilon: F.instance_norm(
        x, weight=scale, bias=bias, eps=epsilon
    ),
    "LayerNormalization": lambda x, scale, bias, epsilon, **_: F.layer_norm(
        x, scale.shape, scale, bias, epsilon
    ),
    "MatMul": torch.matmul,
    "Mul": _binary(torch.mul),
    "Relu": F.relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Slice": _slice,
    "Softmax": lambda x, axis: torch.softmax(x, axis),
    "Split": lambda x, axis, num_outputs: x.chunk(num_outputs, axis),
    "Squeeze": _squeeze,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
"""By ONNX's name, what an operator of the embedded model's graphs is in PyTorch."""
