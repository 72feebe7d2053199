"""Which layer of a network is the first to leave float16's range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

LARGEST: Final = 65504.0
"""Of float16's numbers."""


@dataclass
class Peaks:
    """The largest magnitude in or out of every layer that ran, by its module path, in the order in
    which they first ran."""

    values: dict[str, float] = field(default_factory=dict)

    def beyond(self) -> str:
        """The first layer that float16 cannot hold, and how far it goes; "" if there is none."""
        for layer, peak in self.values.items():
            if not peak <= LARGEST:
                return f"{layer} reaches {peak:.3g}, beyond float16's {LARGEST:.0f}"
        return ""


@contextmanager
def watched(network: Any, precision: str) -> Iterator[Peaks]:
    """Note the peaks of what a float32 network computes inside, where it is to compute in float16;
    otherwise nothing is noted."""
    peaks = Peaks()
    with ExitStack() as hooks:
        if precision == "fp16":
            for path, module in network.named_modules():
                if not any(True for _ in module.children()):
                    hook = partial(_note, peaks, path)
                    hooks.callback(module.register_forward_hook(hook).remove)
        yield peaks


def _note(peaks: Peaks, path: str, _module: Any, args: Any, output: Any) -> None:
    found = [value for value in (*args, output) if isinstance(value, torch.Tensor)]
    for value in found:
        if value.is_floating_point() and value.numel():
            peak = float(value.abs().max())
            peaks.values[path] = max(peaks.values.get(path, 0.0), peak)
