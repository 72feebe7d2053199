"""Proof that a graph is the model: ONNX Runtime beside plain PyTorch.

The PyTorch side runs the model as it was loaded, in float32, with its library's
own attention; it reads what the graphs give out by hooks of its own and knows
nothing of the wrappers that were traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ..runtime.bundle import contract
from ..runtime.errors import BundleError, ExportError
from ..runtime.sessions.onnx_runtime import onnx_runtime
from ..runtime.sessions.ort import OrtSession
from .graphs import encoded
from .refusal import refusing
from .weights import widen_bfloat16

Arrays = dict[str, npt.NDArray[Any]]

# The largest allowed max|a − b| / max|b| against float32 PyTorch. Seen on tiny SD-shaped models:
# 2e-6, 1.5e-3, 1.2e-2, and 2e-3 where weights alone are rounded; depth multiplies it.
TOLERANCE: Final = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "fp16 weights": 1e-2}
_SHORT: Final = 5  # tokens of a prompt that nothing pads
_ONCE_ABOVE: Final = 512  # pixels a side; a larger native size is proved by one graph of each kind


@dataclass(frozen=True)
class Case:
    """One proof run: image height and width in pixels, batch size."""

    height: int
    width: int
    batch: int


@dataclass(frozen=True)
class Row:
    """One output tensor over all cases: `error` is the largest max|a − b| / max|b|."""

    graph: str
    tensor: str
    shapes: tuple[tuple[int, ...], ...]
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


@dataclass(frozen=True)
class Example:
    """A graph's inputs, and what plain PyTorch answers to them."""

    inputs: Arrays
    expected: Arrays

    def of(self, outputs: Sequence[str]) -> Example:
        """The same of fewer outputs, for a cut."""
        return Example(self.inputs, {name: self.expected[name] for name in outputs})


def cases(size_multiple: int, native_size: int) -> tuple[Case, ...]:
    """Two sizes × two batch sizes, then the native size once."""
    m = size_multiple
    chosen = [Case(h, w, batch) for h, w in ((m, 2 * m), (3 * m, 2 * m)) for batch in (1, 2)]
    return (*chosen, Case(native_size, native_size, 1))


def for_derived(examples: Sequence[Example], native_size: int) -> Sequence[Example]:
    """Those of the `cases` for what is made from a graph that was proved: its cuts, its twins."""
    return examples if native_size <= _ONCE_ABOVE else examples[:-1]


def vae_examples(vae: Any, chosen: Sequence[Case]) -> list[Example]:
    """Uniform random images through the plain VAE."""
    random = torch.Generator().manual_seed(0)
    examples = []
    for case in chosen:
        image = torch.rand(case.batch, 3, case.height, case.width, generator=random) * 2 - 1
        with torch.no_grad():
            latent = encoded(vae, image)
        examples.append(as_example({contract.IMAGE: image}, {contract.LATENT: latent}))
    return examples


def text_examples(
    text_encoder: Any,
    spec: contract.TextSpec,
    layer: int | None,
    chosen: Sequence[Case],
    any_length: bool = False,
) -> list[Example]:
    """Prompts of random tokens and length, laid out as the contract says; with `any_length` also
    without what pads them.

    `layer` is the hidden state that is the network's, None for the last and its norm.
    """
    random = torch.Generator().manual_seed(0)
    vocabulary, tokens = text_encoder.config.vocab_size, spec.tokens
    examples = []
    batches = sorted({case.batch for case in chosen})
    lengths = [tokens.max_length, *([_SHORT] if any_length else [])]
    for batch, length in product(batches, lengths):
        ids = torch.randint(vocabulary, (batch, length), generator=random)
        ends = torch.randint(1, length, (batch, 1), generator=random)
        positions = torch.arange(length)
        ids = ids.masked_fill(ids == tokens.eos, tokens.pad if tokens.bos < 0 else tokens.bos)
        if tokens.begins:
            ids = ids.masked_fill(positions == 0, tokens.bos)
        ids = ids.masked_fill(positions == ends, tokens.eos)  # the first eos ends a prompt
        ids = ids.masked_fill(positions > ends, tokens.pad)
        with torch.no_grad():
            found = text_encoder(ids, output_hidden_states=layer is not None)
        states = found.last_hidden_state if layer is None else found.hidden_states[layer]
        outputs = {contract.ENCODER_HIDDEN_STATES: states}
        if spec.pooled:
            outputs[contract.POOLED] = found.text_embeds
        examples.append(as_example({contract.INPUT_IDS: ids}, outputs))
    return examples


def prove(
    path: Path,
    examples: Sequence[Example],
    tolerance: float,
    about: str = "",
    *,
    lean: bool = False,
) -> list[Row]:
    """Run a written graph on `examples`: names, then shapes, then values; `about` goes into the
    rows' notes, `lean` is ONNX Runtime's session's.

    Returns:
        A row per output, failed ones included.

    Raises:
        ExportError: names or shapes differ, or the graph is none that ONNX Runtime can run.
        MdrtError: it cannot load it, or an output is not finite.
    """
    with refusing(f"ONNX Runtime cannot run {path.name}"), _opened(path, lean) as (session, note):
        names, expected = list(session.outputs), list(examples[0].expected)
        if names != expected:
            raise ExportError(f"{path.name} returns {names}, expected {expected}")
        errors = dict.fromkeys(names, 0.0)
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}
        for example in examples:
            for name, found in session.infer(example.inputs).items():
                wanted = example.expected[name]
                if found.shape != wanted.shape or found.dtype != np.float32:
                    raise ExportError(
                        f"{path.name} returns {name} as {found.dtype} {found.shape}, "
                        f"expected float32 {wanted.shape}"
                    )
                errors[name] = float(np.maximum(errors[name], relative_error(found, wanted)))
                shapes[name].append(found.shape)
    allowed = tolerance * growth(examples)
    return [Row(path.name, n, tuple(shapes[n]), errors[n], allowed, note or about) for n in names]


def growth(examples: Sequence[Example]) -> float:
    """How many times the error that a graph of small pictures is allowed, its largest one is.

    ONNX Runtime sums a group's pixels in float32 one after another: SDXL's VAE is off by 2e-6 at
    256², 1.4e-5 at 512² and 9e-5 at 1024², where PyTorch is off by 1e-6 throughout.
    """
    inputs = [value for example in examples for value in example.inputs.values()]
    pixels = max((value[0, 0].size for value in inputs if value.ndim == 4), default=0)
    return max(1.0, pixels / 512**2)


def relative_error(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """max|found − wanted| / max|wanted|; NaN or infinity if either holds one."""
    scale = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(found - wanted).max()) / scale


def as_example(inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> Example:
    return Example(
        {name: value.numpy() for name, value in inputs.items()},
        {name: value.float().numpy() for name, value in outputs.items()},
    )


@contextmanager
def _opened(path: Path, lean: bool) -> Iterator[tuple[OrtSession, str]]:
    """ONNX Runtime on `path`, on the CPU, and a note.

    ONNX Runtime's CPU provider has few bfloat16 kernels. Where it refuses the
    graph for that, the graph's own bfloat16 weights are run in float32, and the
    note says so.
    """
    with TemporaryDirectory(dir=path.parent) as scratch, ExitStack() as opened:
        note = ""
        try:
            session = OrtSession(path, lean=lean)
        except BundleError as error:
            refused = onnx_runtime().capi.onnxruntime_pybind11_state.NotImplemented
            if not isinstance(error.__cause__, refused):
                raise
            widened = Path(scratch) / path.name
            widen_bfloat16(path, widened)
            session = OrtSession(widened)
            note = "no bf16 on ONNX Runtime's CPU: bf16 weights, float32 arithmetic"
        yield opened.enter_context(session), note
