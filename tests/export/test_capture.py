"""Cutting, hooking and lowering a model is undone on exit, whatever happened inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from mdrt.export.attention import text_keys
from mdrt.export.backbones.unet.capture import capture
from mdrt.export.backbones.unet.probe import Selection, probe, select
from mdrt.export.precision import lowered


@pytest.fixture
def unet(sd2: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(sd2 / "unet").eval().requires_grad_(False)


@pytest.fixture
def selection(unet: Any) -> Selection:
    return select(probe(unet.config), 8, (32, 64), (32,))


def state(unet: Any) -> list[object]:
    """Everything the context managers may touch."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules()]
    processors = list(unet.attn_processors.values())
    return [hooks, processors, unet.up_blocks, unet.conv_norm_out, unet.conv_out, str(unet)]


def test_everything_is_restored(unet: Any, selection: Selection) -> None:
    before = state(unet)
    with lowered(unet, "fp16"), capture(unet, selection):
        assert state(unet) != before
    assert state(unet) == before
    with pytest.raises(RuntimeError), lowered(unet, "bf16"), capture(unet, selection):
        raise RuntimeError
    assert state(unet) == before


def test_probing_reads_no_weights(unet: Any) -> None:
    before = state(unet)
    structure = probe(unet.config)
    assert state(unet) == before
    assert structure.down_factor == 8
    assert [block.reduction for block in structure.up_blocks] == [8, 4, 2, 1]


def test_cut_unet_gives_what_the_whole_one_computes(unet: Any, selection: Selection) -> None:
    sample, states = torch.randn(2, 4, 16, 8), torch.randn(2, 77, 32)
    timestep = torch.tensor([1, 900])
    seen: list[torch.Tensor] = []
    hook = (
        unet.up_blocks[0]
        .resnets[-1]
        .register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    )
    unet(sample, timestep, states)
    hook.remove()
    with capture(unet, selection) as captured:
        outputs = captured.run(sample, timestep, states)
    assert [f.stride for f in selection.features] == [32, 64]  # in the order asked for
    torch.testing.assert_close(outputs[1], seen[0])
    count = len(selection.attention)
    logits, queries = outputs[2 : 2 + count], outputs[2 + count : 2 + 2 * count]
    assert {tuple(one.shape) for one in logits} == {(2, 8, 8, 77)}
    assert {tuple(one.shape) for one in queries} == {(2, 8, 8, 8)}  # 64 channels in 8 heads
    for output, one, query in zip(selection.attention, logits, queries, strict=True):
        keys = text_keys(unet.get_submodule(output.layer), states)
        torch.testing.assert_close(query @ keys.transpose(2, 3), one, rtol=1e-4, atol=1e-5)
