"""Find what a UNet offers: its cross-attention layers and up blocks, by running it.

The run is on the `meta` device, a twin built from the configuration alone: no
weights are read, nothing is computed, and every shape is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from ....runtime.bundle.contract import (
    AttentionOutput,
    FeatureOutput,
    encoder_name,
    features_name,
    logits_name,
    output_names,
    self_attention_name,
)
from ....runtime.errors import ExportError
from ...refusal import refusing

NETWORK: Final = "unet.onnx"
SIZES: Final = 6
"""Original height and width, a crop's top and left, and its height and width."""

_REFUSED: Final = (
    ("class_embed_type", "a class or a noise level of its own"),
    ("num_class_embeds", "a class or the noise level of a low-resolution picture"),
    ("encoder_hid_dim_type", "embeddings that another network projects, as of a picture"),
    ("encoder_hid_dim", "embeddings that another network projects"),
    ("time_cond_proj_dim", "an embedding of the guidance scale"),
    ("dual_cross_attention", "two attentions, over a text and a picture"),
)
_FEATURES: Final = (64, 32, 16)  # sizes 8, 16, 32 at 512² (Table 6)
_ATTENTION: Final = (64, 32)  # sizes 8, 16 (Table 5)
_PROMPT_TOKENS: Final = 7  # any length: strides and channels do not depend on it


@dataclass(frozen=True)
class AttentionLayer:
    """An attention layer: its module path, latent cells per pixel of it, heads, the channels of a
    head, and those of what it gives."""

    path: str
    reduction: int
    heads: int
    channels: int
    width: int


@dataclass(frozen=True)
class UpBlock:
    """The input of an up block's last resnet: the resnet's path, reduction, channels."""

    path: str
    reduction: int
    channels: int


@dataclass(frozen=True)
class Structure:
    """What a UNet offers, each in execution order; `encoder` is the last self-attention of the down
    blocks, None where they have none.

    `channels` is the latent's, `width` the text embedding's, and `down_factor` what latent height
    and width must be multiples of.
    """

    channels: int
    width: int

    attention: tuple[AttentionLayer, ...]
    self_attention: tuple[AttentionLayer, ...]
    encoder: AttentionLayer | None
    up_blocks: tuple[UpBlock, ...]
    down_factor: int


@dataclass(frozen=True)
class Selection:
    """The tensors a graph returns; `resnets` holds the module path of each feature, and
    `encoder_layers` what gives the encoder's output."""

    features: tuple[FeatureOutput, ...]
    resnets: tuple[str, ...]
    attention: tuple[AttentionOutput, ...]
    self_attention: tuple[AttentionOutput, ...]
    encoder: tuple[FeatureOutput, ...]
    encoder_layers: tuple[AttentionLayer, ...]
    aligned: tuple[FeatureOutput, ...] = ()
    network: str = NETWORK

    @property
    def names(self) -> tuple[str, ...]:
        return output_names(self)


def probe(config: Mapping[str, Any]) -> Structure:
    """Walk the UNet that `config` describes.

    Raises:
        ExportError: the UNet wants inputs that a text prompt cannot give, or cannot be built or
            run.
    """
    check_inputs(config)
    with refusing("the UNet's configuration cannot be built"), torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config)).eval()
    with refusing("the UNet's configuration cannot be run"):
        return _walk(unet)


def _walk(unet: Any) -> Structure:
    """Run a UNet on the meta device and note what passes."""
    down_factor = 2**unet.num_upsamplers
    side = 4 * down_factor
    attention: list[AttentionLayer] = []
    self_attention: list[AttentionLayer] = []
    up_blocks: list[UpBlock] = []
    paths = {module: path for path, module in unet.named_modules()}

    def on_attention(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        context = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        if module.added_kv_proj_dim is not None:
            return  # keys that mix image and text
        hidden = args[0]
        pixels = hidden.shape[1] if hidden.ndim == 3 else math.prod(hidden.shape[2:])
        layers = self_attention if context is None else attention
        heads = int(module.heads)
        channels, width = int(module.to_q.out_features) // heads, int(module.out_dim)
        reduction = side // math.isqrt(pixels)
        layers.append(AttentionLayer(paths[module], reduction, heads, channels, width))

    def on_resnet(module: Any, args: tuple[Any, ...]) -> None:
        channels, height = args[0].shape[1:3]
        up_blocks.append(UpBlock(paths[module], side // height, channels))

    with ExitStack() as hooks, torch.no_grad(), torch.device("meta"):
        for module in unet.modules():
            if isinstance(module, Attention):
                handle = module.register_forward_pre_hook(on_attention, with_kwargs=True)
                hooks.callback(handle.remove)
        for block in unet.up_blocks:
            hooks.callback(block.resnets[-1].register_forward_pre_hook(on_resnet).remove)
        unet(
            torch.empty(1, unet.config.in_channels, side, side),
            torch.zeros(1, dtype=torch.int64),
            torch.empty(1, _PROMPT_TOKENS, context_width(unet.config)),
            added_cond_kwargs=_added(unet.config),
        )
    return Structure(
        int(unet.config.in_channels),
        context_width(unet.config),
        tuple(attention),
        tuple(self_attention),
        _encoder(self_attention),
        tuple(up_blocks),
        down_factor,
    )


def _added(config: Any) -> dict[str, torch.Tensor]:
    """A pooled text and sizes, of a UNet that takes them."""
    if config["addition_embed_type"] is None:
        return {}
    sizes = SIZES * config["addition_time_embed_dim"]
    pooled = config["projection_class_embeddings_input_dim"] - sizes
    return {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, SIZES)}


def _encoder(self_attention: Sequence[AttentionLayer]) -> AttentionLayer | None:
    """Of the last down block that has attention, the last layer among its own pixels (DiffCut)."""
    down = [layer for layer in self_attention if layer.path.startswith("down_blocks.")]
    return down[-1] if down else None


def context_width(config: Any) -> int:
    """The width of the text embedding that the UNet's cross-attention takes."""
    width = config["cross_attention_dim"]
    return int(width if isinstance(width, int) else width[0])


def select(
    structure: Structure,
    vae_factor: int,
    feature_strides: Sequence[int] | None = None,
    attention_strides: Sequence[int] | None = None,
    self_attention_strides: Sequence[int] = (),
) -> Selection:
    """Choose outputs by stride, in image pixels per cell; for None those of the paper's that the
    UNet has.

    Raises:
        ExportError: nothing stands at a requested stride; lists the strides that exist.
    """
    at = [(block, block.reduction * vae_factor) for block in structure.up_blocks]
    layers, own_layers = (
        [(layer, layer.reduction * vae_factor) for layer in kind]
        for kind in (structure.attention, structure.self_attention)
    )
    offered = {
        "feature": {stride for _, stride in at},
        "attention": {s for _, s in layers},
        "self-attention": {s for _, s in own_layers},
    }
    if feature_strides is None:
        feature_strides = _usual(_FEATURES, offered["feature"])
    if attention_strides is None:
        attention_strides = _usual(_ATTENTION, offered["attention"])
    _check_strides("feature", feature_strides, offered)
    _check_strides("attention", attention_strides, offered)
    if self_attention_strides:
        _check_strides("self-attention", self_attention_strides, offered)
    blocks = [(b, s) for wanted in feature_strides for b, s in at if s == wanted]
    encoder = () if structure.encoder is None else (structure.encoder,)
    strides = [layer.reduction * vae_factor for layer in encoder]
    return Selection(
        tuple(FeatureOutput(features_name(s), s, b.channels) for b, s in blocks),
        tuple(block.path for block, _ in blocks),
        _outputs(layers, attention_strides, logits_name),
        _outputs(own_layers, self_attention_strides, self_attention_name),
        tuple(
            FeatureOutput(encoder_name(stride), stride, layer.width)
            for layer, stride in zip(encoder, strides, strict=True)
        ),
        encoder,
    )


def _outputs(
    layers: Sequence[tuple[AttentionLayer, int]],
    strides: Sequence[int],
    name: Callable[[int, int], str],
) -> tuple[AttentionOutput, ...]:
    """The layers at the strides wanted, numbered at each."""
    return tuple(
        AttentionOutput(
            name(wanted, index), wanted, layer.heads, layer.channels, layer.width, layer.path
        )
        for wanted in strides
        for index, layer in enumerate(at for at, stride in layers if stride == wanted)
    )


def _usual(wanted: Sequence[int], offered: Collection[int]) -> Sequence[int]:
    """Those of the paper's strides that there are, else the coarsest that there is."""
    return [stride for stride in wanted if stride in offered] or sorted(offered)[-1:]


def _check_strides(
    kind: str, wanted: Sequence[int], offered: Mapping[str, Collection[int]]
) -> None:
    """Check one kind of strides; the error names what is offered of every kind."""
    offer = "this model offers " + ", ".join(
        f"{name} strides " + (",".join(map(str, sorted(strides, reverse=True))) or "none")
        for name, strides in offered.items()
    )
    fitting = [stride for stride in wanted if stride in offered[kind]] or offered[kind]
    given = ",".join(map(str, sorted(fitting, reverse=True))) or ...
    option: dict[str, object] = {f"{kind.replace('-', '_')}_strides": given}
    if not wanted:
        raise ExportError(f"no {kind} strides given; {offer}", **option)
    if len(set(wanted)) != len(wanted):
        raise ExportError(f"{kind} strides {list(wanted)} repeat one; give each once")
    for stride in wanted:
        if stride not in offered[kind]:
            raise ExportError(f"{kind} stride {stride} has nothing at it; {offer}", **option)


def check_inputs(config: Mapping[str, Any]) -> None:
    """Refuse UNets that need what a picture and a prompt cannot give.

    Raises:
        ExportError: names the input.
    """
    for key, needs in _REFUSED:
        if config.get(key) not in (None, False):
            raise ExportError(
                f"the UNet needs extra conditioning ({key} = {config[key]}): {needs}; expected one "
                "that takes a latent, a timestep and the embeddings of a text"
            )
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise ExportError(
            f"the UNet needs extra conditioning (addition_embed_type = {added}); expected none, or "
            "text_time: a pooled text and sizes, as Stable Diffusion XL"
        )
