"""Transformers of pictures' patches and words together: Stable Diffusion 3 and 3.5.

Their third text encoder, a T5 of 4.7 G parameters, is left out: its tokens are zeros, as diffusers
has them without it and as Seg4Diff (arXiv 2509.18096) reads these models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import diffusers
import torch
from torch import nn

from ...runtime.bundle import contract
from ...runtime.bundle.contract import AttentionOutput, FeatureOutput, output_names
from ...runtime.errors import ExportError
from ..attention import JointProcessor
from ..components import Pipeline
from ..graphs import BATCH, CELLS, Graph, batch_axis
from ..options import ExportOptions
from ..proof import Case, Example, as_example
from ..refusal import refusing
from ..text_encoders import text_parts
from .base import TextPart
from .latents import latent_spec

PART: Final = "transformer"
_NETWORK: Final = "transformer.onnx"
_GROUNDED: Final = 9 / 24  # Seg4Diff's block of Stable Diffusion 3, as a share of the depth
_SCHEDULER: Final = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class Selection:
    """The tensors that the graph returns; `blocks` are those whose attention it gives out, and
    what the last of them makes of the picture is the features."""

    blocks: tuple[int, ...]
    features: tuple[FeatureOutput, ...]
    attention: tuple[AttentionOutput, ...]
    self_attention: tuple[AttentionOutput, ...] = ()
    encoder: tuple[FeatureOutput, ...] = ()
    aligned: tuple[FeatureOutput, ...] = ()
    network: str = _NETWORK

    @property
    def names(self) -> tuple[str, ...]:
        return output_names(self)


class MMDiT:
    """A pipeline around an `SD3Transformer2DModel`, found and checked; its parts are loaded when
    they are asked for."""

    recommended: Mapping[str, Mapping[str, Any]] = MappingProxyType({"seg4diff": {}})

    def __init__(self, pipeline: Pipeline, options: ExportOptions) -> None:
        """Read the configurations.

        Raises:
            ExportError: they cannot be built, do not fit each other, or a block does not exist.
        """
        self.pipeline, self.model_id = pipeline, pipeline.model_id
        with (
            refusing("the transformer's configuration cannot be built"),
            torch.device("meta"),
        ):
            network = diffusers.SD3Transformer2DModel.from_config(pipeline.config(PART))
        config = network.config
        self.latent = latent_spec(pipeline)
        self.texts: Sequence[TextPart] = text_parts(pipeline, pooled=True)
        self._check(config, [text.spec for text in self.texts])
        patch = config.patch_size
        multiple = self.latent.factor * patch
        self.image = contract.ImageSpec(
            (0.5,) * 3, (0.5,) * 3, config.sample_size // patch * multiple, multiple
        )
        self.most_rows: int = config.pos_embed_max_size
        blocks = options.blocks or (round(_GROUNDED * config.num_layers),)
        if not max(blocks) < config.num_layers:
            raise ExportError(
                f"block {max(blocks)} does not exist; the transformer has blocks 0 to "
                f"{config.num_layers - 1}"
            )
        heads = config.num_attention_heads
        layers = tuple(
            AttentionOutput(
                f"logits_s{multiple}_{index}",
                multiple,
                heads,
                0,
                0,
                f"transformer_blocks.{block}.attn",
                joint=True,
            )
            for index, block in enumerate(blocks)
        )
        width = heads * config.attention_head_dim
        features = (FeatureOutput(contract.features_name(multiple), multiple, width),)
        self.selection = Selection(blocks, features, layers)
        self.noise = contract.NoiseSpec("flow", _levels(pipeline), "flow_prediction")

    def vae(self) -> Any:
        """The VAE."""
        return self.pipeline.vae()

    def network(self) -> Any:
        """The whole transformer."""
        return self.pipeline.load(PART, diffusers.SD3Transformer2DModel)

    def examples(self, network: Any, cases: Sequence[Case]) -> dict[str, list[Example]]:
        """What plain PyTorch says: random latents, levels and embeddings through all of it, with
        diffusers' own attention."""
        random = torch.Generator().manual_seed(0)
        found = []
        for case in cases:
            cells = case.height // self.latent.factor, case.width // self.latent.factor
            sample = torch.randn(case.batch, self.latent.channels, *cells, generator=random)
            timestep = torch.randint(len(self.noise.levels), (case.batch,), generator=random)
            texts = {
                name: torch.randn(case.batch, *shape, generator=random)
                for name, shape in self._texts().items()
            }
            states, pooled = _joined([*texts.values()], network.config.joint_attention_dim)
            told = 1000 * torch.tensor(self.noise.levels, dtype=torch.float32)[timestep]
            with torch.no_grad(), self._observed(network) as seen:
                network(sample, states, pooled, told)
            grid = case.height // self.image.size_multiple, case.width // self.image.size_multiple
            (features,) = self.selection.features
            seen[features.name] = seen[features.name].transpose(1, 2).unflatten(2, grid)
            inputs = {contract.SAMPLE: sample, contract.TIMESTEP: timestep, **texts}
            found.append(as_example(inputs, {name: seen[name] for name in self.selection.names}))
        return {_NETWORK: found}

    @contextmanager
    def graphs(self, network: Any, dtype: torch.dtype) -> Iterator[Sequence[Callable[[], Graph]]]:
        """The transformer up to the last selected block."""
        with ExitStack() as undo:
            module = _Cut(network, self.selection, self.noise.levels, dtype)
            words = self.texts[0].spec.tokens.max_length
            for output in self.selection.attention:
                layer = network.get_submodule(output.layer)
                undo.callback(layer.set_processor, layer.processor)
                layer.set_processor(JointProcessor(words, partial(module.record, output.name)))
            yield (lambda: self._graph(module),)

    def _graph(self, module: _Cut) -> Graph:
        patch = self.image.size_multiple // self.latent.factor
        rows, columns = (
            torch.export.Dim(name, min=1, max=self.most_rows) for name in ("rows", "columns")
        )
        batch = batch_axis()
        texts = {name: torch.zeros(BATCH, *shape) for name, shape in self._texts().items()}
        sides = (cells * patch for cells in CELLS)
        (features,) = self.selection.features
        return Graph(
            _NETWORK,
            module,
            {
                contract.SAMPLE: torch.zeros(BATCH, self.latent.channels, *sides),
                contract.TIMESTEP: torch.zeros(BATCH, dtype=torch.int64),
                **texts,
            },
            {
                contract.SAMPLE: {0: batch, 2: patch * rows, 3: patch * columns},
                **{name: {0: batch} for name in (contract.TIMESTEP, *texts)},
            },
            {features.name: (0, 2, 3), **{a.name: (0, 2) for a in self.selection.attention}},
            shared=True,
        )

    def _texts(self) -> dict[str, tuple[int, ...]]:
        """The inputs for texts, and the shape of a row of each."""
        specs = [text.spec for text in self.texts]
        states = {
            contract.states_name(i): (spec.tokens.max_length, spec.hidden)
            for i, spec in enumerate(specs)
        }
        return states | {contract.pooled_name(i): (spec.pooled,) for i, spec in enumerate(specs)}

    def _check(self, config: Any, specs: Sequence[contract.TextSpec]) -> None:
        if config.in_channels != self.latent.channels:
            raise ExportError(
                f"the transformer takes {config.in_channels} channels, the VAE gives "
                f"{self.latent.channels}; expected the same"
            )
        if len(specs) != 2 or specs[0].tokens.max_length != specs[1].tokens.max_length:
            raise ExportError(
                f"the pipeline has {len(specs)} CLIP text encoders of "
                f"{', '.join(str(s.tokens.max_length) for s in specs)} tokens, expected two of one "
                "length (Stable Diffusion 3 or 3.5)"
            )
        pooled, hidden = sum(s.pooled for s in specs), sum(s.hidden for s in specs)
        if pooled != config.pooled_projection_dim or hidden > config.joint_attention_dim:
            raise ExportError(
                f"the text encoders are {hidden} wide and give {pooled} pooled values, the "
                f"transformer takes at most {config.joint_attention_dim} and exactly "
                f"{config.pooled_projection_dim}"
            )
        if not config.pos_embed_max_size or config.sample_size > (
            config.pos_embed_max_size * config.patch_size
        ):
            raise ExportError(
                f"the transformer's pos_embed_max_size is {config.pos_embed_max_size}, expected "
                f"at least sample_size / patch_size, {config.sample_size / config.patch_size:g}"
            )

    @contextmanager
    def _observed(self, network: Any) -> Iterator[dict[str, torch.Tensor]]:
        """Hooks on diffusers' own layers, for what the graph gives out."""
        words = self.texts[0].spec.tokens.max_length
        seen: dict[str, torch.Tensor] = {}
        with ExitStack() as undo:
            for output in self.selection.attention:
                layer = network.get_submodule(output.layer)
                parts: dict[str, torch.Tensor] = {}
                for name, norm in (
                    ("to_q", "norm_q"),
                    ("to_k", "norm_k"),
                    ("add_k_proj", "norm_added_k"),
                ):
                    source = getattr(layer, norm, None) or getattr(layer, name)
                    undo.callback(source.register_forward_hook(partial(_keep, parts, name)).remove)
                multiply = partial(_multiply, seen, output, parts, words)
                undo.callback(layer.register_forward_hook(multiply).remove)
            (features,) = self.selection.features
            block = network.transformer_blocks[max(self.selection.blocks)]
            hook = partial(_keep_picture, seen, features.name)
            undo.callback(block.register_forward_hook(hook).remove)
            yield seen


class _Cut(nn.Module):  # type: ignore[misc]
    """sample, timestep, texts → features and what the picture attends to in words, float32."""

    def __init__(
        self, network: Any, selection: Selection, levels: Sequence[float], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.pos_embed, self.time_text_embed = network.pos_embed, network.time_text_embed
        self.context_embedder = network.context_embedder
        self.blocks = network.transformer_blocks[: max(selection.blocks) + 1]
        self.width: int = network.config.joint_attention_dim
        self.names = selection.names
        self.dtype = dtype
        self.seen: dict[str, torch.Tensor] = {}
        # float32 whatever the rest is: half would round 1,000 levels to fewer
        self.register_buffer("told", 1000 * torch.tensor(levels, dtype=torch.float32))

    def record(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor of the pass under way."""
        self.seen[name] = tensor

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_2: torch.Tensor,
        pooled: torch.Tensor,
        pooled_2: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        texts = [encoder_hidden_states, encoder_hidden_states_2, pooled, pooled_2]
        states, projected = (tensor.to(self.dtype) for tensor in _joined(texts, self.width))
        patches = self.pos_embed.proj(sample.to(self.dtype))
        rows, columns = patches.shape[2:]
        picture = patches.flatten(2).transpose(1, 2) + self._positions(rows, columns)
        embedding = self.time_text_embed(self.told[timestep], projected)
        words = self.context_embedder(states)
        for block in self.blocks:
            words, picture = block(picture, words, embedding)
        found = picture.transpose(1, 2).unflatten(2, (rows, columns))
        maps = [found, *(self.seen.pop(name) for name in self.names[1:])]
        return tuple(tensor.float() for tensor in maps)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """The middle of the table of positions, (1, rows · columns, width)."""
        side = self.pos_embed.pos_embed_max_size
        table = self.pos_embed.pos_embed.unflatten(1, (side, side))
        top, left = (side - rows) // 2, (side - columns) // 2
        middle = table.narrow(1, top, rows).narrow(2, left, columns)
        return middle.flatten(1, 2).to(self.dtype)


def _joined(texts: Sequence[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, 2 · tokens, width) and (batch, pooled): the two CLIPs' states side by side, padded to
    the width of a T5's, whose own are zeros; their pooled embeddings one after the other."""
    both = torch.cat([*texts[:2]], dim=-1)
    clip = nn.functional.pad(both, (0, width - both.shape[-1]))
    return torch.cat([clip, torch.zeros_like(clip)], dim=1), torch.cat([*texts[2:]], dim=-1)


def _levels(pipeline: Pipeline) -> tuple[float, ...]:
    """σ of every training timestep, the least noise first."""
    config = pipeline.config("scheduler", "scheduler_config.json")
    if config.get("_class_name") != _SCHEDULER:
        raise ExportError(
            f"the scheduler is a {config.get('_class_name')}, expected {_SCHEDULER}, whose noise "
            "the transformer was trained with"
        )
    with refusing("the scheduler's noise schedule is unknown"):
        sigmas = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config).sigmas
    return tuple(reversed(sigmas.double().tolist()))


def _keep(
    parts: dict[str, torch.Tensor], name: str, _module: Any, _args: Any, output: torch.Tensor
) -> None:
    parts[name] = output


def _keep_picture(
    seen: dict[str, torch.Tensor], name: str, _module: Any, _args: Any, output: Any
) -> None:
    seen[name] = output[1]


def _multiply(
    seen: dict[str, torch.Tensor],
    output: AttentionOutput,
    parts: dict[str, torch.Tensor],
    words: int,
    _layer: Any,
    _args: Any,
    _output: Any,
) -> None:
    """After a joint attention: log softmax of the picture's rows, (batch, heads, pixels, words)."""
    query, own, of_words = (
        part if part.ndim == 4 else part.unflatten(2, (output.heads, -1)).transpose(1, 2)
        for part in (parts["to_q"], parts["to_k"], parts["add_k_proj"])
    )
    keys = torch.cat([own, of_words], dim=2)
    logits = torch.einsum("bhpd,bhtd->bhpt", query, keys) / query.shape[-1] ** 0.5
    pixels = own.shape[2]
    seen[output.name] = logits.log_softmax(dim=-1)[..., pixels : pixels + words]
