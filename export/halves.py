"""Networks whose matrices are stored in half and which compute in float32: each is widened where it
is used and let go again, so that a network of 2.6 G parameters takes 5.1 GB and not 10.3."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.utils import parametrize

_SMALLEST: Final = 256
"""Elements; below it a Cast node costs more than it saves."""


class _Widened(nn.Module):  # type: ignore[misc]
    """A weight as float32; where a network is traced, a Cast."""

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float()


def keep_halves(network: Any) -> Any:
    """Let a network compute in float32, with those matrices in half that are stored so."""
    for module in list(network.modules()):
        for name, values in list(module.named_parameters(recurse=False)):
            if values.dtype is torch.float16 and _is_worth_it(values):
                _widen(module, name)
            elif values.is_floating_point():
                values.data = values.data.float()
        for name, values in module.named_buffers(recurse=False):
            if values.is_floating_point():
                module._buffers[name] = values.float()
    return network


def store_halves(network: Any) -> None:
    """Store the matrices of a network that computes in float32 in half, each rounded once; one with
    a value beyond float16's range stays."""
    for module in list(network.modules()):
        if isinstance(module, parametrize.ParametrizationList):
            continue
        for name, values in list(module.named_parameters(recurse=False)):
            if values.dtype is not torch.float32 or not _is_worth_it(values):
                continue
            if float(values.abs().max()) <= torch.finfo(torch.float16).max:
                values.data = values.data.half()
                _widen(module, name)


def drop_halves(network: Any) -> None:
    """Make a network's weights plain ones again, of the types that they are stored in."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)


def _is_worth_it(values: torch.Tensor) -> bool:
    return bool(values.ndim > 1 and values.numel() >= _SMALLEST)


def _widen(module: nn.Module, name: str) -> None:
    # unsafe: it gives another type than it is given, which PyTorch refuses otherwise
    parametrize.register_parametrization(module, name, _Widened(), unsafe=True)
