"""MaskDiffusion in plain PyTorch and diffusers: image in, labels out, straight from the equations.

The oracle of the whole chain. It shares nothing with `mdrt.export`, `mdrt.runtime` and
`mdrt.kernels`: it loads the diffusers pipeline itself, runs the unmodified UNet with hooks of its
own, tokenizes through transformers, and takes its mathematics from `naive`, at full resolution.
One pass over the whole picture: no tiles, one prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import diffusers
import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from scipy.sparse.linalg import eigsh
from torch import Tensor

from . import naive

Method = Literal["spectral", "kmeans"]
Names = str | tuple[str, ...]  # a class: its name, or synonyms

_GRID = (100, 100)  # the affinity's grid, paper §3.3
_RELEASED_CELL = 16  # pixels a cell of the official code's class maps: 32×32 of 512²


@dataclass(frozen=True)
class Observation:
    """What one UNet pass shows, of one picture.

    `features`: (channels, h, w) a stride; `logits`: (heads, tokens, h, w) a layer, QKᵀ/√d.
    """

    features: list[Tensor]
    logits: list[Tensor]


class Embedded(NamedTuple):
    """A prompt as the UNet takes it: (1, max_length, width), and (1, pooled) or None."""

    states: Tensor
    pooled: Tensor | None


class Reference:
    """A diffusers pipeline directory, loaded in float32; with `vae`, a directory too, its VAE from
    there.

    `feature_strides` and `attention_strides` are image pixels per cell; the paper's by default.
    The mathematics after the UNet runs in `dtype`.
    """

    def __init__(
        self,
        pipeline: str | Path,
        feature_strides: Sequence[int] = (64, 32, 16),
        attention_strides: Sequence[int] = (64, 32),
        dtype: torch.dtype = torch.float64,
        vae: str | Path | None = None,
    ) -> None:
        path = Path(pipeline)
        index = json.loads((path / "model_index.json").read_text())

        def load(part: str, **options: Any) -> Any:
            library, name = index[part]
            kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
            return kind.from_pretrained(path / part, **options)

        weights = {"use_safetensors": True}  # a pickle is a program
        self.unet = load("unet", **weights).float().eval()
        self.vae = self._load_vae(path / "vae" if vae is None else Path(vae))
        self.scheduler = load("scheduler")
        pairs = [(f"text_encoder{n}", f"tokenizer{n}") for n in ("", "_2")]
        self.texts = [
            (load(encoder, **weights).float().eval(), load(tokenizer))
            for encoder, tokenizer in pairs
            if encoder in index
        ]
        self.tokenizer = self.texts[0][1]
        self.feature_strides = tuple(feature_strides)
        self.attention_strides = tuple(attention_strides)
        self.dtype = dtype

    def _load_vae(self, folder: Path) -> Any:
        folder = folder if (folder / "config.json").is_file() else folder / "vae"
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        found = getattr(diffusers, kind).from_pretrained(folder, use_safetensors=True)
        return found.float().eval()

    def segment(
        self,
        image: npt.NDArray[np.uint8],
        classes: Sequence[Names],
        noise: npt.NDArray[np.float32],
        *,
        mode: Literal["paper", "released"] = "paper",
        pooling: Literal["exp", "softmax", "logit"] = "exp",
        timestep: int = 0,
    ) -> npt.NDArray[np.int64]:
        """Eq. 4–6: the class of every pixel.

        Mode "released" takes features from the empty prompt, attention from the picture as one
        square without noise, and class maps on a fixed grid, as the official code does.

        Args:
            image: (H, W, 3) RGB, sides multiples of what the UNet takes. In mode "released" also
                at most the native size, so that the features need one patch only.
            classes: a name, or a tuple of synonyms, for each class.
            noise: (channels, n, n) standard normal, repeated over the latent where it is smaller.
            timestep: index into ᾱ; the paper's t = 1 is 0.

        Returns:
            (H, W) int64, index into `classes`.

        Raises:
            ValueError: the classes do not fit into one prompt.
        """
        prompt, owner = self.prompt(classes)
        if mode == "released":
            features = self._observe(image, "", noise, timestep).features
            side = self.side()
            square = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
            # the official inversion is one step, which gives the latent back: no noise
            logits = self._observe(np.asarray(square), prompt, None, timestep).logits
            grid = self.released_grid()
        else:
            seen = self._observe(image, prompt, noise, timestep)
            features, logits, grid = seen.features, seen.logits, None
        if pooling == "softmax":
            logits = [layer.softmax(dim=1) for layer in logits]
        of_classes = owner >= 0
        own = [layer[:, of_classes] for layer in logits]
        maps = naive.class_maps(own, owner[of_classes], len(classes), pooling, grid)
        return self._assign(features, maps, image.shape[:2], image.shape[:2], mode)

    def points(
        self,
        image: npt.NDArray[np.uint8],
        k: int,
        noise: npt.NDArray[np.float32],
        *,
        method: Method = "spectral",
        timestep: int = 0,
    ) -> tuple[list[Tensor], Tensor]:
        """Without names: the features, and what k-means clusters, (100², d) in raster order.

        That is the rows of the k smallest eigenvectors (Eq. 7), or the L2-normalised features.
        """
        features = self._observe(image, "", noise, timestep).features
        if method == "kmeans":
            return features, naive.feature_points(features, _GRID)
        matrix = naive.normalised_affinity(naive.affinity(features, _GRID)).numpy()
        start = np.full(len(matrix), len(matrix) ** -0.5)
        # the largest of D^-½ S D^-½ are the smallest of the Laplacian I − D^-½ S D^-½
        _, vectors = eigsh(matrix, k=k, which="LA", v0=start, tol=0)
        return features, torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)

    def assign_clusters(
        self,
        features: list[Tensor],
        clusters: Tensor,
        size: Sequence[int],
        mode: Literal["paper", "released"] = "paper",
    ) -> npt.NDArray[np.int64]:
        """Eq. 5–6 on the one-hot maps of the clusters (100²,) of `points`: (H, W) int64."""
        k = int(clusters.max()) + 1
        weights = naive.cluster_weights(clusters.reshape(_GRID), k, self.dtype)
        return self._assign(features, weights, _GRID, size, mode)

    def _assign(
        self,
        features: list[Tensor],
        maps: Tensor,
        prototype_size: Sequence[int],
        size: Sequence[int],
        mode: str,
    ) -> npt.NDArray[np.int64]:
        """Eq. 5 on the grid `prototype_size`, Eq. 6 on `size`."""
        rows, columns = prototype_size
        prototypes = naive.prototypes(features, maps, (rows, columns), mode)
        labels = naive.assign(features, prototypes, (size[0], size[1]), mode)
        return np.asarray(labels.numpy(), dtype=np.int64)

    def side(self) -> int:
        """Pixels a side of the pictures that the UNet was trained on."""
        return int(self.unet.config.sample_size * self._cell())

    def released_grid(self) -> tuple[int, int]:
        """The common grid of class maps in mode "released"."""
        cells = max(1, self.side() // _RELEASED_CELL)
        return cells, cells

    def _cell(self) -> int:
        """Image pixels per latent cell: every VAE level but the first halves."""
        config = self.vae.config
        levels = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return int(2 ** (len(levels) - 1))

    def prompt(self, classes: Sequence[Names]) -> tuple[str, Tensor]:
        """The prompt "a and b and …", and the class of each of its positions, −1 for none.

        Every name is tokenized by itself and the pieces are laid end to end; that this is the
        prompt's own tokenization is checked.
        """
        ids = [self.tokenizer.bos_token_id]
        owner = [-1]
        names = [
            (index, name)
            for index, names in enumerate(classes)
            for name in ([names] if isinstance(names, str) else names)
        ]
        for count, (index, name) in enumerate(names):
            for piece, of in (("and", -1), (name, index))[0 if count else 1 :]:
                tokens = self.tokenizer(piece, add_special_tokens=False).input_ids
                ids += tokens
                owner += [of] * len(tokens)
        prompt = " and ".join(name for _, name in names)
        whole = self.tokenizer(prompt).input_ids
        length = self.tokenizer.model_max_length
        if whole[:-1] != ids or len(whole) > length:
            raise ValueError(f"prompt {prompt!r} is not its names' tokens in {length} positions")
        return prompt, torch.tensor(owner + [-1] * (length - len(owner)))

    def _observe(
        self,
        image: npt.NDArray[np.uint8],
        prompt: str,
        noise: npt.NDArray[np.float32] | None,
        t: int,
    ) -> Observation:
        """One pass of the whole UNet on the latent of `image`, noised unless `noise` is None."""
        latent = self.encode(image)
        if noise is not None:
            latent = self.noised(latent, torch.from_numpy(noise), t)
        seen: Observation = self.denoise(latent, t, self.embed(prompt), image.shape[:2])
        return seen

    @torch.no_grad()
    def embed(self, prompt: str) -> Embedded:
        """One text encoder's last states; or, of two, the last but one of each side by side, and
        what the second projects, as Stable Diffusion XL takes them."""
        several, states, pooled = len(self.texts) > 1, [], None
        for encoder, tokenizer in self.texts:
            length = tokenizer.model_max_length
            encoded = tokenizer(prompt, padding="max_length", max_length=length)
            ids = torch.tensor([encoded.input_ids])
            found = encoder(ids, output_hidden_states=True)
            states.append(found.hidden_states[-2] if several else found.last_hidden_state)
            pooled = found.text_embeds if several and hasattr(found, "text_embeds") else None
        return Embedded(torch.cat(states, dim=2), pooled)

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """(1, channels, h, w): the posterior's mean, shifted and scaled as the UNet expects it."""
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        encoded = self.vae.encode(pixels)
        mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        config = self.vae.config
        if config.get("latents_mean") is not None:
            own = (torch.tensor(config[f"latents_{of}"])[:, None, None] for of in ("mean", "std"))
            shift, deviation = own
        else:
            shift, deviation = torch.tensor(config.get("shift_factor") or 0.0), torch.tensor(1.0)
        latent: Tensor = (mean - shift) * config.scaling_factor / deviation
        return latent / self._latent_deviation()

    def _latent_deviation(self) -> float:
        """EDM's σ_d, what scaled latents have where those that enter the UNet have 1."""
        return float(self.scheduler.config.get("sigma_data") or 1.0)

    def _sigma(self, t: int) -> Tensor:
        """EDM's noise level, counted from the least."""
        self.scheduler.set_timesteps(self.scheduler.config.num_train_timesteps)
        sigma: Tensor = self.scheduler.sigmas.double()[:-1].flip(0)[t]
        return sigma

    def noised(self, latent: Tensor, noise: Tensor, t: int) -> Tensor:
        """z_t = √ᾱ_t z + √(1 − ᾱ_t) ε; of EDM as its scheduler preconditions z + σ ε."""
        rows, columns = (torch.arange(n) for n in latent.shape[2:])
        repeated = noise[:, rows % noise.shape[1]][:, :, columns % noise.shape[2]]
        if "sigma_data" in self.scheduler.config:
            sigma = self._sigma(t)
            noisy = latent * self._latent_deviation() + sigma * repeated
            return self.scheduler.precondition_inputs(noisy, sigma).float()
        alpha = torch.cumprod(1 - self.scheduler.betas.double(), 0)[t]
        return (alpha.sqrt() * latent + (1 - alpha).sqrt() * repeated).float()

    @torch.no_grad()
    def run(self, latent: Tensor, t: int, text: Embedded, size: Sequence[int]) -> None:
        """One pass of the whole UNet on z_t of a picture of `size` pixels; of one that takes more
        channels, the others zeros."""
        told = torch.tensor([t])
        if "sigma_data" in self.scheduler.config:
            told = self.scheduler.precondition_noise(self._sigma(t)).float()[None]
        further = self.unet.config.in_channels - latent.shape[1]
        whole = torch.nn.functional.pad(latent, (0, 0, 0, 0, 0, further))
        added = None
        if text.pooled is not None:
            sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)
            added = {"text_embeds": text.pooled, "time_ids": sizes}
        self.unet(whole, told, text.states, added_cond_kwargs=added)

    @torch.no_grad()
    def denoise(self, latent: Tensor, t: int, text: Embedded, size: Sequence[int]) -> Observation:
        """One pass of the whole UNet on z_t of a picture of `size` pixels, watched by hooks."""
        features: dict[int, Tensor] = {}
        logits: list[tuple[int, Tensor]] = []

        def on_resnet(_module: Any, args: tuple[Any, ...]) -> None:
            features[size[0] // args[0].shape[2]] = args[0][0]

        def on_attention(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            query = module.to_q(args[0])[0]  # (pixels, heads · d)
            key = module.to_k(kwargs["encoder_hidden_states"])[0]  # (tokens, heads · d)
            stride = round((size[0] * size[1] / len(query)) ** 0.5)
            grid = (size[0] // stride, size[1] // stride)
            heads = zip(query.chunk(module.heads, 1), key.chunk(module.heads, 1), strict=True)
            maps = [(k @ q.T / q.shape[1] ** 0.5).reshape(-1, *grid) for q, k in heads]
            logits.append((stride, torch.stack(maps)))

        with ExitStack() as hooks:
            for block in self.unet.up_blocks:
                hooks.callback(block.resnets[-1].register_forward_pre_hook(on_resnet).remove)
            for name, module in self.unet.named_modules():
                if name.endswith("attn2"):  # diffusers' name for cross-attention
                    handle = module.register_forward_pre_hook(on_attention, with_kwargs=True)
                    hooks.callback(handle.remove)
            self.run(latent, t, text, size)
        return Observation(
            [features[stride].to(self.dtype) for stride in self.feature_strides],
            [value.to(self.dtype) for s, value in logits if s in self.attention_strides],
        )
