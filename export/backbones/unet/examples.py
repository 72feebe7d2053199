"""What plain PyTorch says of a UNet: the whole of it as it was loaded, with diffusers' own
attention processors, read by hooks of this file's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from ....runtime.bundle import contract
from ....runtime.bundle.contract import AttentionOutput
from ...proof import Case, Example, as_example
from .conditioning import Conditioning
from .probe import Selection

Tensors = dict[str, torch.Tensor]


def unet_examples(
    unet: Any,
    selection: Selection,
    conditioning: Conditioning,
    levels: int,
    chosen: Sequence[Case],
) -> list[Example]:
    """Random latents, timesteps and embeddings through the whole UNet.

    `levels` is the number of training timesteps.
    """
    random = torch.Generator().manual_seed(0)
    examples = []
    for case in chosen:
        cells = case.height // conditioning.factor, case.width // conditioning.factor
        sample = torch.randn(case.batch, conditioning.channels, *cells, generator=random)
        timestep = torch.randint(levels, (case.batch,), generator=random)
        texts = _random_texts(conditioning, case.batch, random)
        added = {}
        if conditioning.sized:
            sizes = [case.height, case.width, 0, 0, case.height, case.width]
            added["text_embeds"] = torch.cat([texts[name] for name in conditioning.pooled], dim=-1)
            added["time_ids"] = torch.tensor([sizes] * case.batch, dtype=torch.float32)
        further = torch.zeros(case.batch, conditioning.further, *cells)
        states = torch.cat([texts[name] for name in conditioning.states], dim=-1)
        whole = torch.cat([sample, further], dim=1)
        told = timestep
        if conditioning.timesteps:
            told = torch.tensor([conditioning.timesteps[t] for t in timestep.tolist()])
        with torch.no_grad(), _observed(unet, selection) as outputs:
            unet(whole, told, states, added_cond_kwargs=added)
        for output in selection.encoder:
            grid = (case.height // output.stride, case.width // output.stride)
            outputs[output.name] = _as_map(outputs[output.name], grid)
        inputs = {contract.SAMPLE: sample, contract.TIMESTEP: timestep, **texts}
        examples.append(as_example(inputs, {name: outputs[name] for name in selection.names}))
    return examples


def words_examples(
    unet: Any, selection: Selection, conditioning: Conditioning, chosen: Sequence[Case]
) -> dict[str, list[Example]]:
    """Of the graphs of keys and of values: random embeddings through the layers' own norms and
    projections; of values, each head's alone, the others' zeros, less what the output projection
    makes of nothing."""
    random = torch.Generator().manual_seed(0)
    found: dict[str, list[Example]] = {contract.KEYS: [], contract.VALUES: []}
    for batch in sorted({case.batch for case in chosen}):
        texts = _random_texts(conditioning, batch, random)
        states = {name: texts[name] for name in conditioning.states}
        joined = torch.cat([*states.values()], dim=-1)
        keys: Tensors = {}
        values: Tensors = {}
        with torch.no_grad():
            for output in selection.attention:
                layer = unet.get_submodule(output.layer)
                normed = layer.norm_encoder_hidden_states(joined) if layer.norm_cross else joined
                own = layer.to_k(normed).unflatten(2, (output.heads, output.channels))
                own = own.permute(0, 2, 1, 3)
                keys[output.keys] = own if layer.norm_k is None else layer.norm_k(own)
                values[output.values] = _by_itself(layer, layer.to_v(normed), output.heads)
        found[contract.KEYS].append(as_example(states, keys))
        found[contract.VALUES].append(as_example(states, values))
    return found


def _random_texts(
    conditioning: Conditioning, batch: int, random: torch.Generator
) -> Mapping[str, torch.Tensor]:
    return {
        name: torch.randn(batch, *shape, generator=random)
        for name, shape in conditioning.texts.items()
    }


def _by_itself(layer: Any, values: torch.Tensor, heads: int) -> torch.Tensor:
    """What each head gives, (batch, heads, tokens, D), of all values (batch, tokens, heads · d)."""
    project, nothing = layer.to_out[0], torch.zeros_like(values)
    own = torch.arange(values.shape[2]) // (values.shape[2] // heads)
    alone = [project(values.where(own == head, nothing)) for head in range(heads)]
    return torch.stack(alone, dim=1) - project(nothing)[:, None]


@contextmanager
def _observed(unet: Any, selection: Selection) -> Iterator[dict[str, torch.Tensor]]:
    """Collect a plain forward pass's resnet inputs, QKᵀ/√d, self-attention's Q and K, and what the
    encoder's last one gives, as its layer has it; hooks go on exit."""
    outputs: dict[str, torch.Tensor] = {}
    with ExitStack() as undo:
        for feature, resnet in zip(selection.features, selection.resnets, strict=True):
            hook = partial(_keep_input, outputs, feature.name)
            undo.callback(unet.get_submodule(resnet).register_forward_pre_hook(hook).remove)
        for feature, source in zip(selection.encoder, selection.encoder_layers, strict=True):
            hook = partial(_keep_output, outputs, feature.name)
            handle = unet.get_submodule(source.path).register_forward_hook(hook)
            undo.callback(handle.remove)
        for output in (*selection.attention, *selection.self_attention):
            layer = unet.get_submodule(output.layer)
            pair: dict[str, torch.Tensor] = {}
            for part in ("q", "k"):
                projected = getattr(layer, f"norm_{part}") or getattr(layer, f"to_{part}")
                hook = partial(_keep_output, pair, part)
                undo.callback(projected.register_forward_hook(hook).remove)
            own = output in selection.self_attention
            multiply = partial(_multiply, outputs, output, pair, own)
            undo.callback(layer.register_forward_hook(multiply).remove)
        yield outputs


def _keep_input(
    outputs: dict[str, torch.Tensor], name: str, _module: Any, args: tuple[Any, ...]
) -> None:
    outputs[name] = args[0]


def _keep_output(
    pair: dict[str, torch.Tensor], part: str, _module: Any, _args: Any, output: torch.Tensor
) -> None:
    pair[part] = output


def _multiply(
    outputs: dict[str, torch.Tensor],
    output: AttentionOutput,
    pair: dict[str, torch.Tensor],
    own: bool,
    layer: Any,
    _args: Any,
    _output: Any,
) -> None:
    """After an attention layer: its queries over √d, (batch, heads, pixels, d), and what they
    multiply to with its keys, (batch, heads, pixels, tokens); or with `own` the keys themselves."""
    query, key = _by_head(pair["q"], layer), _by_head(pair["k"], layer)
    outputs[output.queries] = query / query.shape[-1] ** 0.5
    if own:
        outputs[output.keys] = key
    else:
        outputs[output.name] = torch.einsum("bhpd,bhtd->bhpt", query, key) / query.shape[-1] ** 0.5


def _as_map(given: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(batch, channels, rows, columns) of (batch, pixels, channels), or of a map as it is."""
    if given.ndim == 4:
        return given
    return given.permute(0, 2, 1).reshape(len(given), given.shape[2], *grid)


def _by_head(projected: torch.Tensor, layer: Any) -> torch.Tensor:
    """(batch, heads, positions, d) of a projection or of what a norm made of it."""
    if projected.ndim == 4:
        return projected
    return projected.unflatten(2, (layer.heads, -1)).transpose(1, 2)
